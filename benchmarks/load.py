"""A load generator: JSON posted over kept connections, by so many clients or at such a rate.

Bare asyncio streams: an HTTP client library would cost more time than the service that is measured.
"""

import asyncio
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import uvloop


@dataclass(frozen=True)
class Answer:
    """What came back, after how many seconds; ``began`` is when the request was sent."""

    status: int
    began: float
    seconds: float
    head: bytes
    body: bytes


@dataclass
class Connections:
    """Connections to one host; one that is free is used again."""

    host: str
    port: int
    free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = field(default_factory=list)

    async def post(self, path: str, body: bytes) -> Answer:
        """Post JSON and read all of the answer; who cancels it hangs up."""
        return await self.ask("POST", path, body)

    async def ask(self, method: str, path: str, body: bytes) -> Answer:
        """Send a request and read all of its answer; who cancels it hangs up."""
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: {self.host}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        began = time.perf_counter()
        found = b""
        while not found:
            kept = bool(self.free)
            reader, writer = self.free.pop() if kept else await self._open()
            writer.write(head.encode() + body)
            try:
                found = await reader.readuntil(b"\r\n\r\n")
                lengths = (
                    int(line.split(b":")[1])
                    for line in found.lower().split(b"\r\n")
                    if line.startswith(b"content-length:")
                )
                length = next(lengths, 0)  # 204 has none
                answer = await reader.readexactly(length)
            except (asyncio.IncompleteReadError, ConnectionError):
                if found or not kept:  # one that was kept may have been closed meanwhile
                    raise
            except asyncio.CancelledError:
                writer.close()
                raise
        seconds = time.perf_counter() - began
        self.free.append((reader, writer))
        return Answer(int(found.split(b" ", 2)[1]), began, seconds, found, answer)

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(self.host, self.port)

    def close(self) -> None:
        """Close what is free."""
        for _, writer in self.free:
            writer.close()
        self.free.clear()


def closed_loop(url: str, bodies: Iterator[bytes], clients: int, seconds: float) -> list[Answer]:
    """Post for so long by that many clients, each waiting for its answer before it asks again."""

    async def run() -> list[Answer]:
        connections, path = _target(url)
        answers: list[Answer] = []
        end = time.perf_counter() + seconds

        async def client() -> None:
            while time.perf_counter() < end:
                answers.append(await connections.post(path, next(bodies)))

        await asyncio.gather(*(client() for _ in range(clients)))
        connections.close()
        return answers

    return uvloop.run(run())


def open_loop(url: str, bodies: Iterable[bytes], rate: float) -> list[Answer]:
    """Post each body when its time has come, so many a second, whether answers come or not."""

    async def run() -> list[Answer]:
        connections, path = _target(url)
        began = time.perf_counter()
        posts = []
        for i, body in enumerate(bodies):
            await asyncio.sleep(max(0, began + i / rate - time.perf_counter()))
            posts.append(asyncio.create_task(connections.post(path, body)))
        answers = await asyncio.gather(*posts)
        connections.close()
        return list(answers)

    return uvloop.run(run())


def figures(answers: list[Answer]) -> dict[str, Any]:
    """Return throughput and latencies of the answers of status 200.

    Raises:
        RuntimeError: there is none.
    """
    good = [answer for answer in answers if answer.status == 200]
    if not good:
        raise RuntimeError(f"no request was answered; the first: {answers[0].body.decode()}")
    took = np.array([answer.seconds for answer in good])
    wall = max(a.began + a.seconds for a in good) - min(a.began for a in good)
    return {
        "requests": len(answers),
        "answered": len(good),
        "per_second": round(len(good) / wall, 2),
        "p50_ms": round(float(np.percentile(took, 50)) * 1e3, 3),
        "p99_ms": round(float(np.percentile(took, 99)) * 1e3, 3),
    }


def _target(url: str) -> tuple[Connections, str]:
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    return Connections(parts.hostname, parts.port), parts.path
