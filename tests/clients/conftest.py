"""What the clients' tests talk to: a service with API keys, and a server that answers as it is told."""

import datetime
import hashlib
import json
from collections.abc import Iterator

import pytest
from scripted import scripted_server
from service_process import Serve, Service


@pytest.fixture(scope="module")
def service(serve: Serve, tmp_path_factory: pytest.TempPathFactory) -> Service:
    """A service whose keys are the names of their scopes; bundles stand in a folder of their own."""
    keys = [
        {
            "name": scope,
            "scope": scope,
            "sha256": hashlib.sha256(scope.encode()).hexdigest(),
            "created": str(datetime.date(2026, 1, 1)),
        }
        for scope in ("read", "write", "admin")
    ]
    path = tmp_path_factory.mktemp("keys") / "keys.json"
    path.write_text(json.dumps({"keys": keys}), encoding="utf-8")
    return serve(LLMEMB_KEYS_FILE=str(path))


@pytest.fixture(scope="module")
def scripted() -> Iterator[str]:
    with scripted_server() as url:
        yield url
