"""The bundle at work, the one before it, and the way from one to the next while requests come in."""

import asyncio
import contextlib
import ctypes
import gc
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from llmemb.bundle import Bundle
from llmemb.errors import LLMEmbError
from service.background import Background
from service.errors import RefusedError
from service.indexes import collection_of
from service.milvus import PREFIX
from service.serving import Machine, Serving, open_serving
from service.trial import Trial

QUALITY = ("llmemb", "full", "all", "HR@10")  # in a bundle's metrics: of its held-out interactions

log = logging.getLogger(__name__)


@dataclass
class _Opened:
    """A bundle at work, and what ends that."""

    serving: Serving
    stack: contextlib.AsyncExitStack

    @classmethod
    async def at(cls, machine: Machine, path: Path) -> Self:
        async with contextlib.AsyncExitStack() as stack:
            serving = await stack.enter_async_context(open_serving(machine, path))
            return cls(serving, stack.pop_all())


class Served:
    """Which bundle answers requests; each request is answered by the one that it met.

    Attributes:
        trial: another one beside it; None: there is none.
    """

    def __init__(self, machine: Machine) -> None:
        """Take what all bundles share; none is open yet."""
        self._machine = machine
        self._now: _Opened | None = None
        self._before: _Opened | None = None
        self._changing = asyncio.Lock()
        self._closing = Background()
        self._beside: _Opened | None = None
        self.trial: Trial | None = None

    @property
    def serving(self) -> Serving | None:
        """The bundle at work; None: it is loading, or the service stops."""
        return self._now.serving if self._now else None

    async def open(self) -> None:
        """Open the bundle that the settings name, and the one on trial.

        Raises:
            LLMEmbError: it cannot be served.
        """
        settings = self._machine.settings
        self._now = await _Opened.at(self._machine, settings.bundle)
        # What is there by now stays: modules by the thousand, and this bundle, which is let go of without the
        # collector. To look through it all for garbage would stop every thread for a third of a second.
        gc.freeze()
        await self._announce()
        if settings.trial is not None:
            self._beside = await _Opened.at(self._machine, self._path(settings.trial))
            serving = self._beside.serving
            self.trial = Trial(serving, settings.trial_share, self._machine.metrics)

    def _path(self, name: str) -> Path:
        return self._machine.settings.bundle.resolve().parent / name

    async def close(self) -> None:
        """Stop; nothing is at work any more."""
        opened = [one for one in (self._now, self._before, self._beside) if one]
        self._now = self._before = self._beside = None
        if self.trial:
            await self.trial.close()
        await self._closing.cancel()
        for one in opened:
            await one.stack.aclose()

    async def reload(self, name: str | None) -> float:
        """Put a bundle to work in place of the one that is, if it is whole, works, and is no worse.

        Args:
            name: of a folder beside the bundle of the settings; None: that bundle itself, read again.

        Returns:
            the seconds it took, in which the one before went on answering.

        Raises:
            RefusedError: it is not put to work, or another reload is going on.
        """
        if self._changing.locked():
            raise RefusedError("another reload is going on")
        async with self._changing:
            began = time.monotonic()
            settings = self._machine.settings
            path = settings.bundle if name is None else self._path(name)
            try:
                new = await _Opened.at(self._machine, path)
            except LLMEmbError as error:
                raise RefusedError(str(error)) from error
            if self._now:
                reason = worse(
                    new.serving.bundle, self._now.serving.bundle, settings.reload_quality
                )
                if reason:
                    await new.stack.aclose()
                    raise RefusedError(reason)
            dropped, self._before, self._now = self._before, self._now, new
            if dropped:
                self._closing.start(self._close_later(dropped))
            log.warning("bundle %s is served now", new.serving.bundle.manifest.bundle)
            await self._announce()
            return time.monotonic() - began

    async def roll_back(self) -> None:
        """Put the bundle before to work again; the one at work is kept in its place.

        Raises:
            RefusedError: there is none, or a reload is going on.
        """
        if self._changing.locked():
            raise RefusedError("a reload is going on")
        if self._before is None:
            raise RefusedError("there is no bundle to go back to")
        self._now, self._before = self._before, self._now
        log.warning("bundle %s is served again", self._now.serving.bundle.manifest.bundle)
        await self._announce()

    async def _announce(self) -> None:
        """Let the alias in Milvus name the items of the bundle at work."""
        if self._machine.milvus and self._now:
            collection = collection_of(self._now.serving.bundle)
            await asyncio.to_thread(self._machine.milvus.point, PREFIX, collection)

    async def _close_later(self, dropped: _Opened) -> None:
        """Close a bundle once the requests that met it must have been answered."""
        try:
            await asyncio.sleep(self._machine.settings.deadline_seconds)
        finally:
            await dropped.stack.aclose()
        del dropped
        await asyncio.to_thread(_give_back_memory)


def _give_back_memory() -> None:
    """Have the allocator return what it keeps for later: a fifth of the memory, after a reload."""
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):  # glibc's
        trim(0)


def worse(new: Bundle, old: Bundle, share: float) -> str:
    """Return why a bundle's quality speaks against it; nothing where it does not, or cannot be compared.

    Args:
        new: may take the place of ``old``.
        old: is at work.
        share: of the old one's HR@10 on held-out interactions that the new one must reach.
    """
    ours, theirs = _quality(new), _quality(old)
    if ours is None or theirs is None or ours >= share * theirs:
        return ""
    return (
        f"{new.path}: its HR@10 of held-out interactions is {ours:.4f}, less than {share:g} of the "
        f"{theirs:.4f} of the bundle at work"
    )


def _quality(bundle: Bundle) -> float | None:
    found: Any = bundle.manifest.metrics
    for key in QUALITY:
        found = found.get(key) if isinstance(found, dict) else None
    return found if isinstance(found, float) else None
