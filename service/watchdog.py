"""Finds a thread that hangs: each is given something to do now and then, which is nothing."""

import asyncio
import time
from collections.abc import Mapping
from concurrent.futures import Executor
from typing import Self

from service.background import Background

ROUNDS = 5  # in the time that a thread may take


class Watchdog:
    """Watches executors of one thread each."""

    def __init__(self, threads: Mapping[str, Executor], patience_seconds: float) -> None:
        """Take the executors, by name, and how long one may not get to its next task."""
        self._threads = threads
        self._patience = patience_seconds
        self._asked: dict[str, float] = {}
        self._background = Background()

    async def __aenter__(self) -> Self:
        """Begin to watch."""
        for name, thread in self._threads.items():
            self._background.start(self._watch(name, thread))
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop."""
        await self._background.cancel()

    @property
    def hung(self) -> dict[str, float]:
        """Return for how many seconds each thread that hangs has not answered."""
        now = time.monotonic()
        waited = {name: now - asked for name, asked in self._asked.items()}
        return {name: seconds for name, seconds in waited.items() if seconds > self._patience}

    async def _watch(self, name: str, thread: Executor) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._asked[name] = time.monotonic()
            await loop.run_in_executor(thread, _nothing)
            del self._asked[name]
            await asyncio.sleep(self._patience / ROUNDS)


def _nothing() -> None:
    pass
