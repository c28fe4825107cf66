"""A second bundle beside the one at work: for a share of the users, or only to look on."""

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable

from service.background import Background
from service.serving import Serving
from service.telemetry import Metrics

LOOKING_ON = 64  # requests at once; looking on must not become a load of its own

log = logging.getLogger(__name__)


class Trial:
    """Which users the second bundle answers, and how it compares where it answers none.

    Attributes:
        serving: the second bundle.
        share: of the users; 0: it answers nobody, and is asked what others were asked.
    """

    def __init__(self, serving: Serving, share: float, metrics: Metrics) -> None:
        """Take the bundle, opened, and where to tell."""
        self.serving = serving
        self.share = share
        self._metrics = metrics
        self._background = Background()

    def answers(self, user: str | None) -> bool:
        """Return whether a user is among those that it answers: always the same, on every replica.

        Another bundle on trial has other users. Who is not named is not among them.
        """
        if user is None:
            return False
        name = f"{self.serving.bundle.manifest.bundle}:{user}".encode()
        place = int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "big") / 2**64
        return place < self.share

    def look_on(self, answered: list[str], ask: Callable[[], Awaitable[list[str]]]) -> None:
        """Ask the second bundle what the one at work has answered, when there is time for it.

        Args:
            answered: the items that the user has got.
            ask: returns those of the second bundle.
        """
        if len(self._background) >= LOOKING_ON:
            self._metrics.looked_on.labels("left out").inc()
        else:
            self._background.start(self._compare(set(answered), ask))

    async def _compare(self, answered: set[str], ask: Callable[[], Awaitable[list[str]]]) -> None:
        await asyncio.sleep(0)  # the user's answer first
        try:
            found = set(await ask())
        except Exception:
            # Whatever it is, it is what the trial is for, and no user's trouble.
            log.exception("the bundle on trial could not answer")
            self._metrics.looked_on.labels("failed").inc()
            return
        self._metrics.looked_on.labels("compared").inc()
        if answered:
            self._metrics.in_common.observe(len(found & answered) / len(answered))

    async def finish(self) -> None:
        """Wait for what is being compared."""
        await self._background.finish()

    async def close(self) -> None:
        """Stop comparing."""
        await self._background.cancel()
