"""Fixtures for more than one part of the suite: a place of its own, and a tiny bundle that really works."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from service_process import Serve, Service
from tiny_bundle import make_tiny_bundle

settings.register_profile("llmemb", deadline=None)  # a busy machine is no bug
settings.load_profile("llmemb")
torch.set_num_threads(1)  # as in :func:`own_place`


@pytest.fixture(scope="session", autouse=True)
def own_place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep tests out of the caches and the state of whoever runs them; let a process have one thread.

    Threads that wait for each other on cores that other tests need make a tiny model several times as slow.
    """
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("LLMEMB_")]:
            patch.delenv(name)
        for name in ("XDG_CACHE_HOME", "XDG_STATE_HOME"):
            patch.delenv(name, raising=False)
        patch.setenv("HOME", str(home))
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of 40 films over a randomly initialised Llama, complete and verifiable."""
    return make_tiny_bundle(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def serve(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """Start services as processes; what is left of them ends with the module."""
    running: list[Service] = []

    def start(port: int = 0, **environment: str) -> Service:
        running.append(Service(tiny_bundle, tmp_path_factory.mktemp("s"), port, **environment))
        return running[-1]

    yield start
    for service in running:
        service.client.close()
        if service.process.poll() is None:
            service.end()
