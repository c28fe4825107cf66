"""Tasks that nobody awaits where they are started."""

import asyncio
from collections.abc import Coroutine
from typing import Any


class Background:
    """Holds its tasks until they end: the event loop alone would let go of them."""

    def __init__(self) -> None:
        """Begin without any."""
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Start a task."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def __len__(self) -> int:
        return len(self._tasks)

    async def finish(self) -> None:
        """Wait until all have ended, however they did."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def cancel(self) -> None:
        """End all."""
        for task in self._tasks:
            task.cancel()
        await self.finish()
