"""Replicas behind the proxy, measured: killed, restarted, and given another bundle in turn, under load.

    apt-get install haproxy
    python benchmarks/replicas.py bundles/ml-100k           # about five minutes on two cores

Two services, a Valkey, and the proxy of the compose profile `replicas` by its own configuration,
``docker/haproxy.cfg``. Items that are embedded are new each time. Nothing is asked again by the client.
Writes ``results/replicas.json``.
"""

import argparse
import asyncio
import itertools
import json
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from durability import Killable, running_valkey
from reload import make_bundles, posted
from report import must_show, write_report
from serve import wait_for

from llmemb.bundle import Bundle, read_bundle

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from proxy_process import HAPROXY, proxy

HOSTS = ("127.0.0.2", "127.0.0.3")  # one port: all that a name server tells of is addresses
PROXY_PORT, PORT = 8130, 8131
RATES = {"/recommend": 20, "/items/embed": 2}  # a second
STEADY, REST = 20.0, 3.0  # seconds; after a rest the proxy has seen that a replica is back
ROUNDS = 3  # of kills and of restarts, each of all replicas
DRAIN = "3"  # seconds, as in docker-compose.yml
PATIENCE = 30.0  # of the client
JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class Asked:
    """A request, when it was sent and answered, and the status; 0: it was not answered."""

    began: float
    ended: float
    status: int


def main() -> None:
    """Measure and write ``results/replicas.json``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    arguments = parser.parse_args()
    if HAPROXY is None:
        parser.error("haproxy is not installed (Debian: apt-get install haproxy)")
    bundle = read_bundle(arguments.bundle)
    with tempfile.TemporaryDirectory(prefix="llmemb-replicas-") as name, ExitStack() as stack:
        folder = Path(name)
        make_bundles(arguments.bundle, folder)
        valkey = stack.enter_context(running_valkey(folder / "valkey"))
        redis_url = f"redis://127.0.0.1:{valkey.port}/0"
        settings = {"LLMEMB_DRAIN_SECONDS": DRAIN}
        replicas = [
            stack.enter_context(
                Killable(folder / "current", folder, PORT, redis_url, host=host, **settings)
            )
            for host in HOSTS
        ]
        running = stack.enter_context(proxy(PROXY_PORT, list(HOSTS), PORT))
        wait_for(f"http://127.0.0.1:{PROXY_PORT}/health/ready", running)
        found = asyncio.run(measure(replicas, bodies(bundle)))
    version = subprocess.run([HAPROXY, "-v"], capture_output=True, text=True, check=True).stdout
    rates = ", ".join(f"{rate} {path}" for path, rate in RATES.items())
    print(
        write_report(
            "replicas",
            f"{len(HOSTS)} replicas behind HAProxy; {rates} a second, CPU",
            1,
            promises(found),
            haproxy=version.split()[2],
            **found,
        )
    )


def bodies(bundle: Bundle) -> dict[str, Iterator[bytes]]:
    """Return requests for ever, by path: sequences of nine items, and items that nobody has embedded."""
    chance = random.Random(0)
    ids, attributes = bundle.catalogue.ids, bundle.catalogue.attributes

    def sequences() -> Iterator[bytes]:
        while True:
            yield json.dumps({"sequence": chance.sample(ids, 9), "k": 10}).encode()

    def items() -> Iterator[bytes]:
        for number, one in enumerate(itertools.cycle(attributes)):
            item = {"attributes": {**one, "edition": number}}
            yield json.dumps({"items": [item]}).encode()

    return {"/recommend": sequences(), "/items/embed": items()}


async def measure(replicas: list[Killable], requests: dict[str, Iterator[bytes]]) -> dict[str, Any]:
    """Let requests come while nothing happens, and while each thing does."""
    found: dict[str, Any] = {}
    await asyncio.sleep(REST)
    before = [recommended(replica.url) for replica in replicas]
    async with under_load(requests) as asked:
        await asyncio.sleep(STEADY)
    after = [recommended(replica.url) for replica in replicas]
    shares = [now - then for then, now in zip(before, after, strict=True)]
    found["steady"] = figures(asked) | {"recommended_by": shares}

    moments = []
    async with under_load(requests) as asked:
        for replica in replicas * ROUNDS:
            replica.process.kill()
            moments.append(time.perf_counter())
            await asyncio.to_thread(replica.restart)
            await asyncio.sleep(REST)
    found["killed"] = figures(asked, moments) | {"kills": len(moments)}

    async with under_load(requests) as asked:
        for replica in replicas * ROUNDS:
            await asyncio.to_thread(replica.restart)
            await asyncio.sleep(REST)
    found["restarted"] = figures(asked) | {"restarts": len(replicas) * ROUNDS}

    async with under_load(requests) as asked:
        answers = [
            await asyncio.to_thread(posted, f"{replica.url}/admin/reload", {"bundle": "next"})
            for replica in replicas
        ]
        await asyncio.sleep(REST)
    found["reloaded"] = figures(asked) | {
        "statuses": [status for status, _ in answers],
        "seconds": [answer.get("seconds") for _, answer in answers],
    }
    return found


@asynccontextmanager
async def under_load(requests: dict[str, Iterator[bytes]]) -> AsyncIterator[list[Asked]]:
    """Ask at the rates until the block ends; what came of it is all there then."""
    asked: list[Asked] = []
    enough = asyncio.Event()
    client = httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{PROXY_PORT}",
        timeout=PATIENCE,
        limits=httpx.Limits(max_connections=None),
    )
    async with client, asyncio.TaskGroup() as group:

        async def ask(path: str, body: bytes) -> None:
            began = time.perf_counter()
            try:
                status = (await client.post(path, content=body, headers=JSON)).status_code
            except httpx.HTTPError:
                status = 0
            asked.append(Asked(began, time.perf_counter(), status))

        async def keep_asking(path: str, rate: float) -> None:
            began = time.perf_counter()
            for tick, body in enumerate(requests[path]):
                await asyncio.sleep(max(0, began + tick / rate - time.perf_counter()))
                if enough.is_set():
                    return
                group.create_task(ask(path, body))

        for path, rate in RATES.items():
            group.create_task(keep_asking(path, rate))
        try:
            yield asked
        finally:
            enough.set()


def recommended(replica: str) -> int:
    """Return how many recommendations a replica has answered."""
    text = httpx.get(f"{replica}/metrics").text
    counted = re.findall(r'^llmemb_requests_total{[^}]*route="/recommend"[^}]*} (\S+)$', text, re.M)
    return round(sum(map(float, counted)))


def figures(asked: list[Asked], moments: list[float] | None = None) -> dict[str, Any]:
    """Return what came of requests; ``moments``: when replicas were killed."""

    def in_flight(one: Asked) -> bool:
        return any(one.began <= moment <= one.ended for moment in moments or [])

    failed = [one for one in asked if one.status != 200]
    took = np.array([one.ended - one.began for one in asked if one.status == 200])
    found = {
        "requests": len(asked),
        "failed": len(failed),
        "statuses_of_failed": sorted({one.status for one in failed}),
        "p50_ms": round(float(np.percentile(took, 50)) * 1e3, 1),
        "p99_ms": round(float(np.percentile(took, 99)) * 1e3, 1),
        "slowest_ms": round(float(took.max()) * 1e3, 1),
    }
    if moments is not None:
        found["in_flight_at_a_kill"] = sum(map(in_flight, asked))
        found["failed_in_flight"] = sum(map(in_flight, failed))
    return found


def promises(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what was promised, and whether it holds."""
    killed, restarted, reloaded = (found[name] for name in ("killed", "restarted", "reloaded"))
    others = killed["failed"] - killed["failed_in_flight"]
    line = f"{killed['kills']} kills (SIGKILL) of one of two replicas, each started again: failed requests"
    times = f"{restarted['restarts']} restarts (SIGTERM) in turn"
    swapped = reloaded["statuses"] == [200] * len(HOSTS)
    return [
        must_show(f"{line}, but for those in flight", others, "0", others == 0),
        must_show(f"{times}: failed requests", restarted["failed"], "0", not restarted["failed"]),
        must_show(
            "a bundle reloaded by one replica after the other: failed requests",
            reloaded["failed"],
            "0, and done by both",
            swapped and not reloaded["failed"],
        ),
    ]


if __name__ == "__main__":
    main()
