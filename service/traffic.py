"""How many requests are in progress, and whether more are taken."""

import asyncio


class Traffic:
    """What goes on in one service; each request is within a ``with`` of it.

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

    def __enter__(self) -> None:
        """Count one request more."""
        self.in_progress += 1
        self._idle.clear()

    def __exit__(self, *_: object) -> None:
        """Count it no more."""
        self.in_progress -= 1
        if not self.in_progress:
            self._idle.set()

    async def idle(self) -> None:
        """Wait until none is in progress."""
        await self._idle.wait()
