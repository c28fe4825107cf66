"""Faults, measured: what is answered while Redis, the disk, the clock or the service itself fails.

    python benchmarks/chaos.py                              # about ten minutes on two cores
    python benchmarks/chaos.py --only 'redis*'

A tiny model, one service, and a Valkey that is as `faults.py` says. Requests come at a steady rate before,
during and after each fault. In the end the service is started anew, and what it has is compared with what
was acknowledged. Writes ``results/chaos.json`` and the table in ``docs/faults.md``.
"""

import argparse
import asyncio
import base64
import itertools
import random
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from durability import catalogue
from faults import FAULTS, PORT, Fault, Scene
from report import must_show, write_report
from rich.console import Console

from llmemb.files import replacing_file

BEFORE, DURING, AFTER = 2.0, 5.0, 10.0  # seconds
PER_SECOND = 8  # of each kind of request
PATIENCE = 5.0  # of a client
ALIKE = 1e-3
KINDS = ("embed cached", "embed new", "recommend", "similar", "get item", "write item")
READS = ("embed cached", "recommend", "similar", "get item")
PAGE = Path(__file__).parents[1] / "docs" / "faults.md"
BEGIN, END = "<!-- faults -->", "<!-- end of faults -->"


@dataclass
class Told:
    """What came of the requests of one kind: when each was asked, and whether it was answered well."""

    asked: list[tuple[float, bool]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def share(self, began: float, ended: float) -> float | None:
        """Return the share answered well of those that were asked in a time."""
        good = [ok for at, ok in self.asked if began <= at < ended]
        return round(sum(good) / len(good), 3) if good else None

    def last_failure(self, ended: float) -> float:
        """Return how long after a time the last failure was asked; 0: there was none."""
        return max([at - ended for at, ok in self.asked if not ok and at >= ended], default=0.0)


@dataclass
class Known:
    """What may be in an item: what was acknowledged last, and what was asked since and not acknowledged."""

    acknowledged: int | None = None
    possible: set[int | None] = field(default_factory=set)

    def may_be(self, number: int | None) -> bool:
        """Return whether it may hold that number; None: may be absent."""
        return number == self.acknowledged or number in self.possible


class Load:
    """Requests of every kind, at a steady rate."""

    def __init__(self, url: str) -> None:
        """Take the service."""
        self.url = url
        self.told = {kind: Told() for kind in KINDS}
        self.items: dict[str, Known] = {}
        # As many connections as it takes: requests that wait must not keep others from being asked.
        limits = httpx.Limits(max_connections=None)
        self._client = httpx.AsyncClient(base_url=url, timeout=PATIENCE, limits=limits)
        self._chance = random.Random(0)
        self._numbers = itertools.count()
        self._vectors: dict[int, np.ndarray] = {}
        self._busy: set[str] = set()

    async def prepare(self) -> None:
        """Learn what is right while all is well."""
        for number in range(20):
            self._vectors[number] = _vector(await self._embed(f"known {number}"))
        for number in range(30):
            await self._write(f"item-{number}", number)

    async def run(self, enough: asyncio.Event) -> None:
        """Ask until it is enough."""
        began = time.monotonic()
        tasks = set()
        ask = {
            "embed cached": self._cached,
            "embed new": self._new,
            "recommend": self._recommend,
            "similar": self._similar,
            "get item": self._get,
            "write item": self._change,
        }
        for tick in itertools.count():
            if enough.is_set():
                break
            await asyncio.sleep(max(0, began + tick / PER_SECOND - time.monotonic()))
            for kind, asking in ask.items():
                tasks.add(asyncio.create_task(self._tell(kind, asking)))
        await asyncio.gather(*tasks)

    async def close(self) -> None:
        """End."""
        await self._client.aclose()

    async def _tell(self, kind: str, asking: Any) -> None:
        told, began = self.told[kind], time.monotonic()
        try:
            wrong = await asking()
        except (httpx.HTTPError, AssertionError):
            told.asked.append((began, False))
            return
        told.asked.append((began, True))
        if wrong:
            told.wrong.append(wrong)

    async def _embed(self, title: str) -> dict[str, Any]:
        body = {"items": [{"attributes": {"title": title}}], "encoding_format": "base64"}
        return await self._post("/items/embed", body)

    async def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = await self._client.post(path, json=body)
        assert answer.status_code == 200
        found: dict[str, Any] = answer.json()
        return found

    async def _cached(self) -> str:
        number = self._chance.choice(list(self._vectors))
        found = _vector(await self._embed(f"known {number}"))
        return "" if np.abs(found - self._vectors[number]).max() < ALIKE else "another vector"

    async def _new(self) -> str:
        await self._embed(f"new {next(self._numbers)}")
        return ""

    async def _recommend(self) -> str:
        gone = self._surely_gone()
        answer = await self._post("/recommend", {"sequence": ["film-4"], "k": 1000})
        shown = {one["id"] for one in answer["items"]} & gone & self._surely_gone()
        return f"deleted items: {sorted(shown)}" if shown else ""

    async def _similar(self) -> str:
        gone = self._surely_gone()
        answer = await self._post("/items/similar", {"attributes": {"title": "item"}, "k": 100})
        shown = {one["id"] for one in answer["items"]} & gone & self._surely_gone()
        return f"deleted items: {sorted(shown)}" if shown else ""

    def _surely_gone(self) -> set[str]:
        return {
            name
            for name, known in self.items.items()
            if known.acknowledged is None and not known.possible
        }

    async def _get(self) -> str:
        name = self._chance.choice(list(self.items))
        before = set(self.items[name].possible) | {self.items[name].acknowledged}
        answer = await self._client.get(f"/items/{name}")
        assert answer.status_code in (200, 404)
        number = answer.json()["attributes"]["number"] if answer.status_code == 200 else None
        return "" if number in before or self.items[name].may_be(number) else f"{name}: {number}"

    async def _change(self) -> str:
        name = f"item-{self._chance.randrange(60)}"
        if name in self._busy:  # one at a time, so that it is known what it holds
            name = f"item-{next(self._numbers) + 100}"
        number = None if self._chance.random() < 0.3 else next(self._numbers)
        self._busy.add(name)
        try:
            await self._write(name, number)
        finally:
            self._busy.discard(name)
        return ""

    async def _write(self, name: str, number: int | None) -> None:
        known = self.items.setdefault(name, Known())
        known.possible.add(number)
        if number is None:
            answer = await self._client.delete(f"/items/{name}")
            assert answer.status_code in (204, 404)
        else:
            body = {"attributes": {"title": f"item {name}", "number": number}}
            answer = await self._client.put(f"/items/{name}", json=body)
            assert answer.status_code in (200, 201)
        known.acknowledged, known.possible = number, set()


def _vector(answer: dict[str, Any]) -> np.ndarray:
    return np.frombuffer(base64.b64decode(answer["data"][0]["embedding"]), dtype="<f4")


def main() -> None:
    """Measure and write ``results/chaos.json``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="*", metavar="PATTERN", help="faults: 'redis*'")
    arguments = parser.parse_args()
    found: dict[str, Any] = {}
    left_out: dict[str, str] = {}
    for fault in (one for one in FAULTS if fnmatch(one.name, arguments.only)):
        if reason := fault.impossible():
            left_out[fault.name] = reason
            continue
        with tempfile.TemporaryDirectory(prefix="llmemb-chaos-") as name:
            found[fault.name] = measure(fault, Path(name))
        Console(stderr=True).print(fault.name, found[fault.name])
    path = write_report(
        "chaos",
        f"faults of {DURING:g} s under {len(KINDS) * PER_SECOND} requests a second",
        1,
        promises(found),
        faults=found,
        left_out=left_out,
    )
    if arguments.only == "*":
        write_page(found)
    print(path)


def measure(fault: Fault, folder: Path) -> dict[str, Any]:
    """Return what one fault does."""
    with ExitStack() as stack:
        scene = stack.enter_context(Scene(fault, folder))
        load = Load(f"http://127.0.0.1:{PORT}")
        found = asyncio.run(_under(load, fault, scene))
        scene.restart()  # what it has now is what Redis has
        present = asyncio.run(_present(load.url))
    lost = [
        name
        for name, known in load.items.items()
        if not known.may_be(present.get(name)) and (name in present or known.acknowledged)
    ]
    return found | {
        "items": len(load.items),
        "lost_or_other": len(lost),
        "which": sorted(lost)[:10],
    }


async def _under(load: Load, fault: Fault, scene: Scene) -> dict[str, Any]:
    await load.prepare()
    enough = asyncio.Event()
    running = asyncio.create_task(load.run(enough))
    await asyncio.sleep(BEFORE)
    began = time.monotonic()
    await asyncio.to_thread(fault.begin, scene)
    await asyncio.sleep(max(0.0, began + DURING - time.monotonic()))
    await asyncio.to_thread(fault.end, scene)
    ended = time.monotonic()
    await asyncio.sleep(AFTER)
    enough.set()
    await running
    await load.close()
    return {
        "how": fault.how,
        "seconds": round(ended - began, 1),
        "answered_during": {kind: told.share(began, ended) for kind, told in load.told.items()},
        "seconds_to_recover": {
            kind: round(told.last_failure(ended), 1) for kind, told in load.told.items()
        },
        "answered_at_the_end": {
            kind: told.share(ended + AFTER / 2, ended + 2 * AFTER)
            for kind, told in load.told.items()
        },
        "wrong_answers": sum(len(told.wrong) for told in load.told.values()),
        "wrong": [one for told in load.told.values() for one in told.wrong][:10],
    }


async def _present(url: str) -> dict[str, int | None]:
    async with httpx.AsyncClient(timeout=15) as client:
        return await catalogue(client, url)


def promises(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what was promised, and whether it holds."""
    lost = sum(one["lost_or_other"] for one in found.values())
    wrong = sum(one["wrong_answers"] for one in found.values())
    slowest = max(max(one["seconds_to_recover"].values()) for one in found.values())
    reads = min(
        (
            one["answered_during"][kind] or 0.0
            for name, one in found.items()
            if name.startswith("redis")
            for kind in READS
        ),
        default=1.0,
    )
    end = min(min(one["answered_at_the_end"].values()) for one in found.values())
    line = "every fault of Redis: the endpoint that reads with the smallest share of answers"
    return [
        must_show(
            f"{len(found)} faults: acknowledged items lost, or other ones", lost, "0", not lost
        ),
        must_show(f"{len(found)} faults: wrong answers", wrong, "0", not wrong),
        must_show(line, reads, ">= 0.9", reads >= 0.9),
        must_show(
            "every fault: seconds until all is answered again", slowest, "<= 5", slowest <= 5
        ),
        must_show("every fault: share answered from five seconds after it on", end, "1", end == 1),
    ]


def write_page(found: dict[str, Any]) -> None:
    """Write the table into ``docs/faults.md``."""
    lines = [
        "| fault | how | " + " | ".join(KINDS) + " | seconds to recover | lost | wrong |",
        "|---|---|" + "---:|" * (len(KINDS) + 3),
    ]
    for name, one in found.items():
        shares = [f"{100 * (one['answered_during'][kind] or 0):.0f}%" for kind in KINDS]
        slowest = max(one["seconds_to_recover"].values())
        cells = [name, one["how"], *shares, f"{slowest:.1f}"]
        cells += [str(one["lost_or_other"]), str(one["wrong_answers"])]
        lines.append(f"| {' | '.join(cells)} |")
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    with replacing_file(PAGE) as aside:
        aside.write_text("\n".join([before + BEGIN, "", *lines, "", END]) + after, encoding="utf-8")


if __name__ == "__main__":
    main()
