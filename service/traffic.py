"""How many requests are in progress, and whether more are taken."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class Traffic:
    """What goes on in one service.

    Attributes:
        in_progress: requests.
        draining: whether the service is stopping, and takes no more.
    """

    def __init__(self) -> None:
        """Begin with none."""
        self.in_progress = 0
        self.draining = False
        self._idle = asyncio.Event()
        self._idle.set()

    @contextmanager
    def one_more(self) -> Iterator[None]:
        """Count a request as long as it lasts."""
        self.in_progress += 1
        self._idle.clear()
        try:
            yield
        finally:
            self.in_progress -= 1
            if not self.in_progress:
                self._idle.set()

    async def idle(self) -> None:
        """Wait until none is in progress."""
        await self._idle.wait()
