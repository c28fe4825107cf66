"""LLM vectors by the content hash of the item's attributes: in this process's memory, then in Redis.

Redis holds them under the encoder's fingerprint, for all replicas and for the next start. A cache and no
more: whatever goes wrong with it, the answer is a miss. A vector never changes under its key, so that
what is in memory is never stale.
"""

import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from redis.asyncio import RedisCluster
from redis.exceptions import ResponseError

from service.llm_vector import LLMVector, pack, unpack
from service.redis_servers import AnyRedis
from service.store import Store, StoreAwayError
from service.telemetry import Metrics

OVERHEAD_BYTES = 500  # of a vector in memory: its key and its objects

log = logging.getLogger(__name__)


class VectorCache:
    """The vectors of one encoder; bundles that share it share the vectors too."""

    def __init__(
        self,
        store: Store,
        *,
        fingerprint: str,
        dimensions: int,
        ttl: int,
        memory_bytes: int,
        metrics: Metrics,
    ) -> None:
        """Take the store and what identifies the encoder.

        Args:
            store: Redis.
            fingerprint: the encoder's.
            dimensions: of a vector.
            ttl: seconds that Redis keeps a vector.
            memory_bytes: about what the vectors used last may take in this process; 0: none are kept.
            metrics: told where asked vectors came from.
        """
        self._recent: OrderedDict[str, LLMVector] = OrderedDict()
        self._most_recent = memory_bytes // (2 * dimensions + OVERHEAD_BYTES)
        self._store = store
        self._prefix = f"llmemb:vec:{fingerprint}:"
        self._dimensions = dimensions
        self._ttl = ttl
        self._refused = False
        self._took = metrics.stages["cache"]
        asked = metrics.asked_vectors
        self._in_memory, self._in_redis, self._nowhere = map(
            asked.labels, ("memory", "redis", "model")
        )

    async def read(self, keys: Sequence[str]) -> dict[str, LLMVector]:
        """Return the vectors of those content hashes that are cached, in one round trip at most.

        A value that is damaged, of another size or another item's is a miss.
        """
        found = {key: vector for key in keys if (vector := self._recent.get(key))}
        for key in found:
            self._recent.move_to_end(key)
        self._in_memory.inc(len(found))
        if missing := [key for key in keys if key not in found]:
            kept = await self._read_redis(missing)
            for key, vector in kept.items():
                self._remember(key, vector)
            self._in_redis.inc(len(kept))
            self._nowhere.inc(len(missing) - len(kept))
            found |= kept
        return found

    async def _read_redis(self, keys: Sequence[str]) -> dict[str, LLMVector]:
        names = [self._prefix + key for key in keys]

        async def mget(client: AnyRedis) -> list[Any]:
            if isinstance(client, RedisCluster):
                return list(await client.mget_nonatomic(names))
            return list(await client.mget(names))

        try:
            with self._took.time():
                values = await self._store.run(mget)
        except (StoreAwayError, ResponseError):
            return {}
        return {
            key: vector
            for key, name, data in zip(keys, names, values, strict=True)
            if (vector := unpack(data, name, self._dimensions))
        }

    async def write(self, vectors: Mapping[str, LLMVector]) -> None:
        """Keep vectors under their content hashes, in one round trip; in memory where Redis is away."""
        for key, vector in vectors.items():
            self._remember(key, vector)

        async def set_all(client: AnyRedis) -> None:
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

    def _remember(self, key: str, vector: LLMVector) -> None:
        self._recent[key] = vector
        self._recent.move_to_end(key)
        while len(self._recent) > self._most_recent:
            self._recent.popitem(last=False)
