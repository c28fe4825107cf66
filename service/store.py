"""The connection to Redis or Valkey: bounded in time, and let go of while the server is away.

Every call goes through :meth:`Store.run`. After one failure no caller waits on the server again
until a probe, sent once a second, finds it back. What is stored there is not this module's matter.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from llmemb.errors import LLMEmbError, SettingsError
from service.redis_servers import ELSEWHERE, URL_FORMS, AnyRedis, connect

PROBE_SECONDS = 1.0
MAX_CALLS = 32  # at once; more wait for a slot, so that the server sees a bounded load

log = logging.getLogger(__name__)
T = TypeVar("T")

# RuntimeError: of uvloop, where a connection was closed that redis-py is about to write to.
_FAILURES = (RedisError, OSError, TimeoutError, RuntimeError)


class StoreAwayError(Exception):
    """Redis does not answer now."""


class Store:
    """A Redis server that may go away and come back."""

    def __init__(
        self, url: str, *, timeout: float, revive: Callable[[], None] | None = None
    ) -> None:
        """Take the server's URL; nothing is sent before :meth:`open`.

        Args:
            url: see :func:`service.redis_servers.connect`.
            timeout: seconds that one call may take, connecting included.
            revive: called (in a thread) when a probe fails; starts the server again if it died.

        Raises:
            SettingsError: the URL is not one.
        """
        try:
            self._servers = connect(url, timeout)
        except ValueError:
            # The URL may hold a password: it is not repeated.
            raise SettingsError(
                f"LLMEMB_REDIS_URL is not a Redis URL; it looks like {URL_FORMS}"
            ) from None
        self._timeout = timeout
        self._revive = revive
        self._up = False
        self._missed = (
            False  # whether it was said that the server is away, and not yet that it is back
        )
        self._slots = asyncio.Semaphore(MAX_CALLS)
        self._calls: set[asyncio.Task[object]] = set()
        self._prober: asyncio.Task[None] | None = None

    @property
    def up(self) -> bool:
        """Whether the last call or probe was answered."""
        return self._up

    async def open(self) -> None:
        """Try the server once and begin to probe it; a server that is away is no error."""
        await self._probe()
        self._prober = asyncio.create_task(self._probe_forever())

    async def close(self) -> None:
        """End the probe, wait for calls in flight (each is bounded) and close the connections."""
        if self._prober:
            self._prober.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)
        with contextlib.suppress(*_FAILURES):
            await self._servers.aclose()

    async def run(self, command: Callable[[AnyRedis], Awaitable[T]]) -> T:
        """Return what a command on keys wherever they are gets.

        See :meth:`run_at`.
        """
        return await self._run(lambda: command(self._servers.whole))

    async def run_at(self, key: str, command: Callable[[Redis], Awaitable[T]]) -> T:
        """Return what a command on a key, or others of its hash tag, gets from the server that has it.

        A caller that is cancelled leaves the command to finish on its own: cut off between a command
        and its reply, a connection would hand that reply to whoever uses it next.

        Raises:
            StoreAwayError: the server is away, or went away during the command.
            redis.exceptions.ResponseError: the server refused the command.
        """
        return await self._run(lambda: command(self._servers.at(key)))

    async def _run(self, command: Callable[[], Awaitable[T]]) -> T:
        if not self._up:
            raise StoreAwayError
        call = asyncio.create_task(self._call(command))
        self._calls.add(call)
        call.add_done_callback(self._settle)
        return await asyncio.shield(call)

    async def _call(self, command: Callable[[], Awaitable[T]]) -> T:
        async with self._slots:
            if not self._up:
                raise StoreAwayError
            try:
                async with asyncio.timeout(self._timeout):
                    return await command()
            except _FAILURES as error:
                if isinstance(error, ResponseError) and not isinstance(error, ELSEWHERE):
                    raise
                self._lost(error)
                raise StoreAwayError from error

    def _settle(self, call: asyncio.Task[T]) -> None:
        self._calls.discard(call)
        if not call.cancelled():
            call.exception()  # its caller may be gone: an exception counts as seen

    def _lost(self, error: BaseException) -> None:
        self._up = False
        if not self._missed:
            self._missed = True
            log.warning("Redis is away (%s); going on without it", type(error).__name__)

    async def _probe_forever(self) -> None:
        while True:
            await asyncio.sleep(PROBE_SECONDS)
            await self._probe()
            if self._up and self._missed:
                self._missed = False
                log.warning("Redis is back")

    async def _probe(self) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                if not self._up:
                    # Whatever is still to be read on the old connections is nobody's reply.
                    await self._servers.disconnect()
                await self._servers.whole.ping()
        except ResponseError:
            pass  # an answer, if a refusal: the server is there
        except _FAILURES as error:
            self._lost(error)
            await self._revive_server()
            return
        self._up = True

    async def _revive_server(self) -> None:
        if self._revive is None:
            return
        try:
            await asyncio.to_thread(self._revive)
        except LLMEmbError as error:
            log.warning("%s", error)
