"""Half an hour at 70% of what the service can do: does it leak, slow down, or fail?

    python benchmarks/soak.py                               # 40 minutes on two cores
    python benchmarks/soak.py --minutes 5

A tiny model, so that everything around it is what is measured: embedding of cached and new items,
recommendations, changes of the catalogue, and a reload every half minute. Seven minutes of the same come
first, which fill the allocator's caches. Writes ``results/soak.json``.
"""

import argparse
import asyncio
import itertools
import json
import random
import shutil
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import uvloop
from load import Connections
from report import must_show, write_report
from rich.progress import Progress
from serve import llmemb

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from tiny_bundle import FILMS, film_id, make_tiny_bundle

MINUTES, WARM_UP_MINUTES, SHARE = 30, 7, 0.7
CLIENTS, CAPACITY_SECONDS, RELOAD_SECONDS, LOOK_SECONDS = 16, 60, 30, 5
REST_SECONDS = 40  # nothing is asked: bundles that were replaced are closed in that time
SLOPE, SLOWER = 0.01, 1.5  # memory in ten minutes; p99 of the last third
IDS = 500  # that change
MIX = {"cached": 6, "recommend": 8, "new": 2, "put": 3, "delete": 1}


class Asker:
    """Makes requests of the mix."""

    def __init__(self, url: str) -> None:
        """Take the service."""
        self._connections = Connections("127.0.0.1", int(url.rsplit(":", 1)[1]))
        self._chance = random.Random(0)
        self._numbers = itertools.count()
        self._kinds = [kind for kind, weight in MIX.items() for _ in range(weight)]

    async def ask(self) -> tuple[float, int]:
        """Make one; return how long it took in seconds, and the status."""
        kind = self._chance.choice(self._kinds)
        name = f"item-{self._chance.randrange(IDS)}"
        number = next(self._numbers)
        match kind:
            case "cached":
                path, body = "/items/embed", _items(f"known {number % 50}")
            case "new":
                path, body = "/items/embed", _items(f"new {number}")
            case "recommend":
                ids = [film_id(self._chance.randrange(FILMS)) for _ in range(9)]
                path, body = "/recommend", {"sequence": ids, "k": 20}
            case "put":
                path = "/items"
                body = {"items": [{"id": name, "attributes": {"title": name, "number": number}}]}
            case _:
                path, body = f"/items/{name}", None
        content = b"" if body is None else json.dumps(body).encode()
        method = "DELETE" if body is None else "POST"
        answer = await self._connections.ask(method, path, content)
        return answer.seconds, answer.status

    def close(self) -> None:
        """Hang up; who asks again connects anew."""
        self._connections.close()


def _items(title: str) -> dict[str, Any]:
    return {"items": [{"attributes": {"title": title}}]}


def main() -> None:
    """Measure and write ``results/soak.json``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=MINUTES)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="llmemb-soak-") as name:
        folder = Path(name)
        bundle = make_tiny_bundle(folder / "tiny")
        shutil.copytree(bundle, bundle.parent / "again")
        # Vectors kept in the process fill their share in the first minutes, and not all the while.
        with llmemb(bundle, folder, LLMEMB_CACHE_MEMORY_MB="1") as running:
            process = psutil.Process(running.process.pid)
            found = uvloop.run(soak(running.url, process, 60 * arguments.minutes))
    print(
        write_report(
            "soak",
            f"{arguments.minutes:g} minutes at {SHARE:.0%} of capacity, tiny model",
            1,
            promises(found),
            **found,
        )
    )


async def soak(url: str, process: psutil.Process, seconds: float) -> dict[str, Any]:
    """Find what the service can do, then ask for a share of it: to warm up, and for so long."""
    asker = Asker(url)
    capacity = await _capacity(asker, url)
    rate = SHARE * capacity
    await _asked(asker, process, url, rate, min(60 * WARM_UP_MINUTES, seconds))
    before = await _rest(asker, process)
    load = await _asked(asker, process, url, rate, seconds)
    after = await _rest(asker, process)
    return {
        "capacity_per_second": round(capacity),
        "asked_per_second": round(rate),
        **_figures(load, seconds),
        "held_at_rest": {"before": before, "after": after},
    }


@dataclass(frozen=True)
class Load:
    """What was asked: when, in seconds, how long it took, and statuses; memory; reloads' seconds."""

    taken: list[tuple[float, float, int]] = field(default_factory=list)
    memory: list[tuple[float, int]] = field(default_factory=list)
    reloads: list[float] = field(default_factory=list)


async def _asked(
    asker: Asker, process: psutil.Process, url: str, rate: float, seconds: float
) -> Load:
    """Ask at that rate for so long, with reloads."""
    load = Load()
    began = time.monotonic()

    async def one() -> None:
        took, status = await asker.ask()
        load.taken.append((time.monotonic() - began, took, status))

    async def look() -> None:
        while True:
            load.memory.append((time.monotonic() - began, process.memory_full_info().uss))
            await asyncio.sleep(LOOK_SECONDS)

    with Progress() as progress:
        bar = progress.add_task(f"{rate:.0f} requests a second", total=seconds)
        async with asyncio.TaskGroup() as group:
            others = [group.create_task(look()), group.create_task(_reloads(url, load.reloads))]
            for tick in itertools.count():
                due = began + tick / rate
                if due > began + seconds:
                    break
                if (wait := due - time.monotonic()) > 0:
                    await asyncio.sleep(wait)
                group.create_task(one())
                if tick % 100 == 0:
                    progress.update(bar, completed=time.monotonic() - began)
            for other in others:
                other.cancel()
    return load


async def _rest(asker: Asker, process: psutil.Process) -> dict[str, int]:
    """Hang up, wait, and return what the service still holds.

    It keeps as many connections to Redis, on a Unix socket here, as it needed at once until now.
    """
    asker.close()
    await asyncio.sleep(REST_SECONDS)
    redis = len(process.net_connections("unix"))
    return {
        "descriptors": process.num_fds() - redis,
        "connections": len(process.net_connections("inet")),
        "redis_connections": redis,
        "threads": process.num_threads(),
    }


async def _capacity(asker: Asker, url: str) -> float:
    """Return requests a second, of so many clients that each wait for their answers; with reloads."""
    ends = time.monotonic() + CAPACITY_SECONDS
    done = 0

    async def client() -> None:
        nonlocal done
        while time.monotonic() < ends:
            await asker.ask()
            done += 1

    reloads = asyncio.create_task(_reloads(url, []))
    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    reloads.cancel()
    return done / CAPACITY_SECONDS


async def _reloads(url: str, took: list[float]) -> None:
    """Reload now and then, for ever; tell how long each took, in seconds."""
    for name in itertools.cycle(["again", "bundle"]):
        await asyncio.sleep(RELOAD_SECONDS)
        began = time.monotonic()
        await asyncio.to_thread(_reload, url, name)
        took.append(time.monotonic() - began)


def _reload(url: str, name: str) -> None:
    request = urllib.request.Request(
        f"{url}/admin/reload",
        data=json.dumps({"bundle": name}).encode(),
        headers={"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60):
        pass


def _figures(load: Load, seconds: float) -> dict[str, Any]:
    at, memory = np.array(load.memory).T
    slope, start = np.polyfit(at, memory, 1)
    return {
        "requests": len(load.taken),
        "failed": sum(status >= 500 or status == 429 for _, _, status in load.taken),
        "reloads": len(load.reloads),
        "memory_mb": [round(one / 2**20) for one in memory[:: max(1, len(memory) // 20)]],
        "memory_slope_per_10_minutes": round(float(600 * slope / start), 4),
        "p99_ms_by_third": _p99(load, seconds, 3),
        "p99_ms_by_minute": _p99(load, seconds, max(3, round(seconds / 60))),
        "seconds_of_a_reload": [round(one, 2) for one in load.reloads],
    }


def _p99(load: Load, seconds: float, parts: int) -> list[float]:
    """Return the 99th percentile, in milliseconds, of all requests of each equal part of the time."""
    when, took, _ = np.array(load.taken).T
    part = np.minimum(when * parts // seconds, parts - 1)
    return [round(1e3 * float(np.percentile(took[part == i], 99)), 1) for i in range(parts)]


def promises(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what was promised, and whether it holds."""
    slope = found["memory_slope_per_10_minutes"]
    first, *_, last = found["p99_ms_by_third"]
    before, after = found["held_at_rest"]["before"], found["held_at_rest"]["after"]
    growth = max(after[key] - before[key] for key in ("descriptors", "connections"))
    return [
        must_show("requests that failed", found["failed"], "0", found["failed"] == 0),
        must_show(
            "memory: slope in ten minutes, after warm-up", slope, f"< {SLOPE}", slope < SLOPE
        ),
        must_show(
            "more descriptors or connections, at rest, Redis apart", growth, "<= 0", growth <= 0
        ),
        must_show(
            "p99 of the last third over that of the first",
            round(last / first, 2),
            f"<= {SLOWER}",
            last <= SLOWER * first,
        ),
    ]


if __name__ == "__main__":
    main()
