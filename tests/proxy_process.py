"""The proxy of the compose profile `replicas` as a process, and a name server that knows its replicas."""

import os
import shutil
import socket
import socketserver
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CONFIGURATION = Path(__file__).parents[1] / "docker" / "haproxy.cfg"
HAPROXY = shutil.which("haproxy", path=os.environ.get("PATH", "") + ":/usr/sbin")
NAME = "replica"
A, SECONDS_TO_LIVE = 1, 1


@contextmanager
def proxy(port: int, replicas: list[str], replica_port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run the proxy on a port of 127.0.0.1 until the block ends; the block begins when it listens.

    Args:
        port: its own.
        replicas: IPv4 addresses.
        replica_port: of all of them.
    """
    assert HAPROXY is not None
    with names({NAME: replicas}) as name_server:
        environment = {
            "PROXY_BIND": f"127.0.0.1:{port}",
            "PROXY_REPLICAS": f"{NAME}:{replica_port}",
            "PROXY_DNS": f"127.0.0.1:{name_server}",
        }
        command = [HAPROXY, "-db", "-f", str(CONFIGURATION)]
        with subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            try:
                while process.poll() is None and not listens(port):
                    time.sleep(0.02)
                yield process
            finally:
                process.terminate()


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def names(known: dict[str, list[str]]) -> Iterator[int]:
    """Answer which addresses a name has, as Docker's name server does; yield the UDP port."""

    class Answer(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            query, replying = self.request
            replying.sendto(answer(query, known), self.client_address)

    with socketserver.UDPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()


def answer(query: bytes, known: dict[str, list[str]]) -> bytes:
    """Return the reply to a query of one question (RFC 1035, section 4)."""
    end = query.index(b"\0", 12) + 5
    labels, rest = [], query[12:end]
    while rest[0]:
        labels.append(rest[1 : 1 + rest[0]].decode())
        rest = rest[1 + rest[0] :]
    (kind,) = struct.unpack(">H", rest[1:3])
    addresses = known.get(".".join(labels), []) if kind == A else []
    head = query[:2] + struct.pack(">HHHHH", 0x8580, 1, len(addresses), 0, 0)
    record = struct.pack(">HHHIH", 0xC00C, A, 1, SECONDS_TO_LIVE, 4)  # of the name in the question
    return head + query[12:end] + b"".join(record + socket.inet_aton(one) for one in addresses)
