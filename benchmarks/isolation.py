"""Isolation, measured: no answer holds what another request asked for, however many hang up in between.

    python benchmarks/isolation.py                          # some minutes on two cores

A tiny model, and a Redis that every request reads: nothing is kept in the process. Each request asks for
other items; its answer is compared with what their vectors were when nobody else asked. Writes
``results/isolation.json``.
"""

import argparse
import asyncio
import base64
import json
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import uvloop
from load import Answer, Connections
from report import must_show, write_report
from rich.progress import Progress
from serve import llmemb

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from tiny_bundle import make_tiny_bundle

REQUESTS, CLIENTS, ITEMS = 100_000, 64, 2000
HANG_UP, LATEST_SECONDS = (
    0.3,
    0.02,
)  # share of the requests whose client leaves, and when at the latest
ALIKE = 1e-6


def main() -> None:
    """Measure and write ``results/isolation.json``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=REQUESTS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="llmemb-isolation-") as name:
        bundle = make_tiny_bundle(Path(name) / "tiny")
        with llmemb(bundle, Path(name), LLMEMB_CACHE_MEMORY_MB="0") as running:
            found = uvloop.run(measure(running.url, arguments.requests))
    print(
        write_report(
            "isolation",
            f"{arguments.requests} requests by {CLIENTS} clients, of which {HANG_UP:.0%} hang up early",
            1,
            [
                must_show(
                    f"of {arguments.requests} requests, answers that are another's",
                    found["another's"],
                    "0",
                    found["another's"] == 0,
                ),
                must_show(
                    "answers that are neither 200 nor 429",
                    found["other_statuses"],
                    "0",
                    found["other_statuses"] == 0,
                ),
            ],
            **found,
        )
    )


async def measure(url: str, requests: int) -> dict[str, Any]:
    """Ask for each item alone, then for all at once, over and over."""
    connections = Connections("127.0.0.1", int(url.rsplit(":", 1)[1]))
    alone = {}
    for number in range(ITEMS):
        answer = await connections.post("/items/embed", body([number]))
        alone[number] = vectors(answer)[f"item-{number}"]
    chance = random.Random(0)
    left = iter(range(requests))
    counts: Counter[str] = Counter()
    with Progress() as progress:
        bar = progress.add_task("asking", total=requests)

        async def client() -> None:
            for _ in left:
                asked = chance.sample(range(ITEMS), chance.randint(1, 3))
                if (
                    chance.random() < 0.5
                ):  # one that nobody asked for before: the model, not the cache
                    asked[0] += ITEMS * chance.randint(1, 50)
                counts[await ask(asked)] += 1
                progress.advance(bar)

        async def ask(asked: list[int]) -> str:
            posting = asyncio.create_task(connections.post("/items/embed", body(asked)))
            if chance.random() < HANG_UP:
                await asyncio.wait([posting], timeout=chance.uniform(0, LATEST_SECONDS))
                if not posting.done():
                    posting.cancel()
                    await asyncio.wait([posting])
                    return "hung up"
            answer = await posting
            if answer.status != 200:
                return "429" if answer.status == 429 else "other"
            found = vectors(answer)
            right = found.keys() == {f"item-{one}" for one in asked} and all(
                np.abs(found[f"item-{one}"] - alone[one]).max() < ALIKE
                for one in asked
                if one in alone
            )
            return "own" if right else "another's"

        await asyncio.gather(*(client() for _ in range(CLIENTS)))
    connections.close()
    return {
        "requests": requests,
        "clients": CLIENTS,
        "hung_up": counts["hung up"],
        "own": counts["own"],
        "another's": counts["another's"],
        "refused_as_too_many": counts["429"],
        "other_statuses": counts["other"],
    }


def body(numbers: list[int]) -> bytes:
    """Return a request for items, each unlike any other."""
    items = [{"id": f"item-{one}", "attributes": {"title": f"item {one}"}} for one in numbers]
    return json.dumps({"items": items, "encoding_format": "base64"}).encode()


def vectors(answer: Answer) -> dict[str, np.ndarray]:
    """Return the vector of each item of an answer."""
    return {
        one["id"]: np.frombuffer(base64.b64decode(one["embedding"]), dtype="<f4")
        for one in json.loads(answer.body)["data"]
    }


if __name__ == "__main__":
    main()
