"""The live catalogue, measured: how soon a new item can be returned, and whether anything is ever lost.

    python benchmarks/freshness.py data/beauty              # about half an hour on two cores

Two services on one Valkey. First the time from the acknowledgement of a new item until each of them
returns it, under load. Then thousands of changes while services and Valkey are killed (SIGKILL) at random;
see `durability.py`. Writes ``results/freshness.json``.
"""

import argparse
import asyncio
import random
import tempfile
import time
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from durability import KILLS, PORTS, durability, kept_promises, running_valkey
from report import must_show, write_report
from serve import llmemb, trained_bundle

from llmemb.base_model import DEFAULT_BASE_MODEL, find_base_model
from trainer.dataset import read_dataset

UPSERTS, RECOMMENDS = 10, 50  # a second
POLL = 0.02
FRESH = 1.0
CHANGES = 10_000


def main() -> None:
    """Measure and write ``results/freshness.json``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="prepared data (`llmemb data prepare`)")
    parser.add_argument("--base-model", default=DEFAULT_BASE_MODEL, help="the LLM")
    parser.add_argument("--seconds", type=int, default=60, help="of load, for freshness")
    parser.add_argument("--changes", type=int, default=CHANGES)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="llmemb-freshness-") as name:
        folder = Path(name)
        fresh = freshness(arguments.data, arguments.base_model, folder, arguments.seconds)
        kept = durability(folder, arguments.changes)
    print(
        write_report(
            "freshness",
            f"new items on two services under load; {arguments.changes} changes under {3 * KILLS} kills",
            1,
            promises(fresh, kept),
            freshness=fresh,
            durability=kept,
        )
    )


def freshness(data: Path, base_model: str, folder: Path, seconds: int) -> dict[str, Any]:
    """Measure the time from acknowledgement to return, on the service that was asked and the other."""
    base = find_base_model(base_model)
    catalogue = read_dataset(data).catalogue
    with ExitStack() as stack:
        valkey = stack.enter_context(running_valkey(folder / "fresh"))
        bundle = trained_bundle(data, base.path, folder)
        redis_url = f"redis://127.0.0.1:{valkey.port}/0"
        urls = [
            stack.enter_context(llmemb(bundle, folder, port, LLMEMB_REDIS_URL=redis_url)).url
            for port in PORTS
        ]
        return asyncio.run(_freshness(urls, catalogue.ids, catalogue.attributes, seconds))


async def _freshness(
    urls: list[str], ids: list[str], attributes: list[dict[str, Any]], seconds: int
) -> dict[str, Any]:
    chance = random.Random(0)
    took: dict[str, list[float]] = {"the service asked": [], "the other": []}
    acknowledged: list[float] = []
    recommended: list[float] = []
    failed = 0
    async with AsyncExitStack() as stack:
        limits = httpx.Limits(max_connections=200)
        clients = [
            await stack.enter_async_context(
                httpx.AsyncClient(base_url=url, timeout=30, limits=limits)
            )
            for url in urls
        ]

        async def recommend() -> None:
            nonlocal failed
            began = time.perf_counter()
            body = {"sequence": chance.sample(ids, 9), "k": 10}
            answer = await chance.choice(clients).post("/recommend", json=body)
            recommended.append(time.perf_counter() - began)
            failed += answer.status_code != 200

        async def upsert(number: int) -> None:
            new = {**chance.choice(attributes), "title": f"new item {number}"}
            order = chance.sample(clients, 2)
            began = time.perf_counter()
            answer = await order[0].put(f"/items/new-{number}", json={"attributes": new})
            answer.raise_for_status()
            acked = time.perf_counter()
            acknowledged.append(acked - began)
            await asyncio.gather(
                *(
                    returned(client, new, f"new-{number}", acked, found)
                    for client, found in zip(order, took.values(), strict=True)
                )
            )

        async def returned(
            client: httpx.AsyncClient,
            new: dict[str, Any],
            item_id: str,
            acked: float,
            found: list[float],
        ) -> None:
            while True:
                answer = await client.post("/items/similar", json={"attributes": new, "k": 1})
                if answer.status_code == 200 and answer.json()["items"][0]["id"] == item_id:
                    found.append(time.perf_counter() - acked)
                    return
                await asyncio.sleep(POLL)

        began = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for tick in range(seconds * RECOMMENDS):
                await asyncio.sleep(max(0, began + tick / RECOMMENDS - time.perf_counter()))
                group.create_task(recommend())
                if tick % (RECOMMENDS // UPSERTS) == 0:
                    group.create_task(upsert(tick))
    return {
        "upserts": len(acknowledged),
        "recommends": len(recommended),
        "failed_recommends": failed,
        "acknowledged_ms": percentiles(acknowledged),
        "recommended_ms": percentiles(recommended),
        "returned_ms_after_acknowledgement": {
            which: percentiles(found) for which, found in took.items()
        },
    }


def percentiles(seconds: list[float]) -> dict[str, float]:
    """Return milliseconds."""
    return {
        name: round(float(np.percentile(seconds, share)) * 1e3, 1)
        for name, share in (("p50", 50), ("p99", 99), ("max", 100))
    }


def promises(fresh: dict[str, Any], kept: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what was promised, and whether it holds."""
    found = []
    for which, took in fresh["returned_ms_after_acknowledgement"].items():
        line = f"a new item is returned after its acknowledgement, by {which}: p99, s"
        found.append(must_show(line, took["p99"] / 1e3, f"<= {FRESH}", took["p99"] <= 1e3 * FRESH))
    failed = fresh["failed_recommends"]
    found.append(must_show("recommend requests that failed meanwhile", failed, "0", not failed))
    return [*found, *kept_promises(kept)]


if __name__ == "__main__":
    main()
