"""LLM vectors in Redis, under the encoder's fingerprint and the content hash of the item's attributes.

A cache and no more: whatever goes wrong with it, the answer is a miss.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from service.llm_vector import LLMVector, pack, unpack
from service.store import Store, StoreAwayError

log = logging.getLogger(__name__)


class VectorCache:
    """The vectors of one encoder; bundles that share it share the vectors too."""

    def __init__(self, store: Store, *, fingerprint: str, dimensions: int, ttl: int) -> None:
        """Take the store and what identifies the encoder; ``ttl`` is in seconds."""
        self._store = store
        self._prefix = f"llmemb:vec:{fingerprint}:"
        self._dimensions = dimensions
        self._ttl = ttl
        self._refused = False

    async def read(self, keys: Sequence[str]) -> dict[str, LLMVector]:
        """Return the vectors of those content hashes that are cached, in one round trip.

        A value that is damaged, of another size or another item's is a miss.
        """
        names = [self._prefix + key for key in keys]

        async def mget(client: Redis) -> list[Any]:
            return list(await client.mget(names))

        try:
            values = await self._store.run(mget)
        except (StoreAwayError, ResponseError):
            return {}
        found = {}
        for key, name, data in zip(keys, names, values, strict=True):
            if vector := unpack(data, name, self._dimensions):
                found[key] = vector
        return found

    async def write(self, vectors: Mapping[str, LLMVector]) -> None:
        """Keep vectors under their content hashes, in one round trip; dropped where Redis is away."""

        async def set_all(client: Redis) -> None:
            async with client.pipeline(transaction=False) as pipeline:
                for key, vector in vectors.items():
                    name = self._prefix + key
                    pipeline.set(name, pack(vector, name), ex=self._ttl)
                await pipeline.execute()

        try:
            await self._store.run(set_all)
        except StoreAwayError:
            return
        except ResponseError as error:
            if not self._refused:  # once, not for every request that it happens to
                log.warning("Redis refuses to keep vectors: %s", error)
            self._refused = True
        else:
            self._refused = False
