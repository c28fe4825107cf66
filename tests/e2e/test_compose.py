"""docker-compose.yml for real: images built, services up, vectors kept over a restart.

Needs a container engine and the image ``llmemb:cpu``; ``LLMEMB_TEST_COMPOSE`` names the command, for
example ``docker compose``. ``.ci/compose`` prepares all that and runs this file.
"""

import json
import os
import shlex
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_bundle import make_tiny_bundle

ROOT = Path(__file__).parents[2]
COMPOSE = os.environ.get("LLMEMB_TEST_COMPOSE")
NEW_FILM = {"title": "A film that came out today", "genres": ["Drama"]}

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        COMPOSE is None, reason="LLMEMB_TEST_COMPOSE names no compose command (`.ci/compose` does)"
    ),
]

Compose = Callable[..., str]


@pytest.fixture(scope="module")
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@pytest.fixture(scope="module")
def compose(port: int) -> Iterator[Compose]:
    """Bring everything up around a tiny bundle; take it down again with its volumes."""
    bundles = Path(tempfile.mkdtemp(prefix="llmemb-bundles-"))
    make_tiny_bundle(bundles)
    for path in (bundles, *bundles.rglob("*")):
        # What the libraries write for the owner alone; the container's user is another one.
        path.chmod(0o755 if path.is_dir() else 0o644)
    environment = {
        **os.environ,
        "PORT": str(port),
        "LLMEMB_BUNDLES": str(bundles),
        "LLMEMB_BUNDLE": "bundle",
        "LLMEMB_BASE_MODEL": "/bundles/base",
    }

    def run(*arguments: str) -> str:
        command = [*shlex.split(COMPOSE or ""), *arguments]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done.stdout

    try:
        run("up", "--detach", "--no-build")
        wait_until_ready(port)
        yield run
    finally:
        run("down", "--volumes")
        shutil.rmtree(bundles)


def wait_until_ready(port: int) -> None:
    """Wait for the service and for its connection to Valkey, which starts beside it on a restart."""
    answer: dict[str, str] = {}
    for _ in range(240):
        try:
            url = f"http://127.0.0.1:{port}/health/ready"
            answer = json.load(urllib.request.urlopen(url, timeout=2))
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            answer = {}
        if answer.get("cache") == "up":
            return
        time.sleep(0.5)
    pytest.fail(f"the service did not become ready within two minutes: {answer}")


def post(port: int, path: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    return json.load(urllib.request.urlopen(request, timeout=30))


def cached(port: int) -> bool:
    answer = post(port, "/items/embed", {"items": [{"attributes": NEW_FILM}]})
    return bool(answer["data"][0]["cached"])


def keys(compose: Compose) -> list[str]:
    scan = "valkey-cli --scan 2>/dev/null || redis-cli --scan"
    return compose("exec", "-T", "valkey", "sh", "-c", scan).split()


def test_it_recommends_keeps_vectors_in_valkey_and_survives_a_restart(
    compose: Compose, port: int
) -> None:
    answer = post(port, "/recommend", {"sequence": ["film-7", {"attributes": NEW_FILM}], "k": 5})
    assert len(answer["items"]) == 5
    assert {item["source"] for item in answer["items"]} == {"model"}
    assert any(key.startswith("llmemb:vec:") for key in keys(compose))
    assert cached(port)

    compose("restart")
    wait_until_ready(port)
    assert any(key.startswith("llmemb:vec:") for key in keys(compose))
    assert cached(port)


def test_the_service_does_not_run_as_root(compose: Compose) -> None:
    assert compose("exec", "-T", "service", "id", "-u").strip() == "10001"
