"""How many services share one Redis: each says every few seconds that it is there."""

import asyncio
import contextlib
import uuid
from typing import Self

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from service.background import Background
from service.store import Store, StoreAwayError
from service.telemetry import Metrics

HERE_SECONDS = 2.0
GONE_SECONDS = 10  # after which one that has not been heard of is not counted
KEY = "llmemb:replicas"

# By the clock of Redis, which all share. ARGV: who is there, and the seconds. Returns how many are.
_HERE = """
local now = tonumber(redis.call('TIME')[1])
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[2])
return redis.call('ZCARD', KEYS[1])
"""


class Replicas:
    """Counts the services, this one among them, into a gauge; 0 while Redis is away."""

    def __init__(self, store: Store, metrics: Metrics) -> None:
        """Take the Redis that they share and where to count."""
        self._store = store
        self._count = metrics.replicas
        self._own = uuid.uuid4().hex
        self._background = Background()

    async def __aenter__(self) -> Self:
        """Say that this service is there, from now on."""
        self._background.start(self._say_forever())
        return self

    async def __aexit__(self, *_: object) -> None:
        """Say that it is not any more."""
        await self._background.cancel()

        async def leave(client: Redis) -> None:
            await client.zrem(KEY, self._own)

        with contextlib.suppress(StoreAwayError, ResponseError):  # the others find out in time
            await self._store.run_at(KEY, leave)

    async def _say_forever(self) -> None:
        async def here(client: Redis) -> int:
            return int(await client.eval(_HERE, 1, KEY, self._own, str(GONE_SECONDS)))

        while True:
            try:
                self._count.set(await self._store.run_at(KEY, here))
            except (StoreAwayError, ResponseError):
                self._count.set(0)
            await asyncio.sleep(HERE_SECONDS)
