"""From an item's attributes to its vectors: canonical form, cache, prompt, engine, then the adapter."""

import asyncio
import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import repeat
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from llmemb.bundle import Bundle
from llmemb.catalogue import MAX_ITEM_BYTES, canonical
from llmemb.errors import ItemError
from service.cache import VectorCache
from service.engine import Engine
from service.errors import InvalidFieldError
from service.llm_vector import LLMVector
from service.telemetry import Metrics

ADAPTED_AT_ONCE = 4  # items: quicker done than handed to another thread
ADAPTED_KEPT = 8192  # item vectors of LLM vectors that were adapted last: some 15 MB


@dataclass(frozen=True)
class PreparedItem:
    """An item that has been checked; its prompt is written only where the cache does not know it.

    Attributes:
        field: where in the request its attributes stand, for messages.
        key: the content hash.
        content: the canonical form of the attributes, or a text that the LLM reads as it stands.
        is_text: which of the two.
    """

    field: str
    key: str
    content: bytes
    is_text: bool = False


@dataclass(frozen=True)
class EmbeddedItem:
    """An item's LLM vector, and whether it came from the cache."""

    llm: LLMVector
    cached: bool


class Embedder:
    """Embeds items of any origin with one bundle."""

    def __init__(
        self,
        bundle: Bundle,
        *,
        cache: VectorCache,
        engine: Engine,
        worker: Executor,
        metrics: Metrics,
    ) -> None:
        """Take the bundle, where vectors come from, and the thread that runs the adapter."""
        self._bundle = bundle
        self._cache = cache
        self._engine = engine
        self._worker = worker
        self._took = metrics.stages["adapter"]
        # Of the bundle and not of this object: in a circle they would outlive their last request.
        self._item_vector = lru_cache(ADAPTED_KEPT)(partial(_adapted, bundle))

    @property
    def waiting(self) -> int:
        """How many items wait for the model."""
        return self._engine.waiting

    def prepare(self, attributes: Mapping[str, Any], field: str) -> PreparedItem:
        """Check an item's attributes.

        Args:
            attributes: as the request gives them.
            field: where in the request they stand.

        Raises:
            InvalidFieldError: they cannot be used.
        """
        try:
            content = canonical(attributes)
        except ItemError as error:
            path = ".".join([field, *map(str, error.path)])
            raise InvalidFieldError(path, error.reason) from error
        return PreparedItem(field, hashlib.sha256(content).hexdigest(), content)

    def prompt(self, item: PreparedItem) -> str:
        """Return what the LLM reads of an item.

        Raises:
            InvalidFieldError: that would be nothing.
        """
        if item.is_text:
            return item.content.decode()
        # From the canonical form, as the key is: two spellings of an item share a key, so they must
        # share the text behind the vector too.
        try:
            return self._bundle.manifest.prompt.render_known(json.loads(item.content))
        except ItemError as error:
            raise InvalidFieldError(item.field, error.reason) from error

    def readable(self, item: PreparedItem) -> bool:
        """Return whether the LLM has anything to read of an item."""
        return self._bundle.manifest.prompt.readable(json.loads(item.content))

    def prepare_text(self, text: str, field: str) -> PreparedItem:
        """Check a text that the LLM reads as it stands.

        Args:
            text: at most ``MAX_ITEM_BYTES`` of UTF-8.
            field: where in the request it stands.

        Raises:
            InvalidFieldError: it is empty, too long or not valid Unicode.
        """
        if not text.strip():
            raise InvalidFieldError(field, "there is nothing to read")
        try:
            data = text.encode()
        except UnicodeEncodeError as error:
            raise InvalidFieldError(field, "the text is not valid Unicode") from error
        if len(data) > MAX_ITEM_BYTES:
            reason = f"the text takes {len(data):,} bytes; the limit is {MAX_ITEM_BYTES:,}"
            raise InvalidFieldError(field, reason)
        # No item's canonical form begins like this: a text never shares a key with an item.
        return PreparedItem(field, hashlib.sha256(b"text:" + data).hexdigest(), data, is_text=True)

    async def embed(
        self, items: Sequence[PreparedItem], *, truncate: bool = True
    ) -> list[EmbeddedItem]:
        """Return the LLM vector of each item, in order; the same item twice is computed once.

        Args:
            items: checked items.
            truncate: take an item whose end the model does not read.

        Raises:
            InvalidFieldError: the model cannot embed one of them, or would read nothing of it.
            OverloadedError: too much is waiting for the model.
        """
        by_key = {item.key: item for item in items}
        cached = await self._cache.read(list(by_key))
        missing = {key: self.prompt(item) for key, item in by_key.items() if key not in cached}
        computed = await self._engine.compute(missing) if missing else {}
        embedded = []
        for item in items:
            outcome = cached.get(item.key) or computed[item.key]
            if isinstance(outcome, ItemError):
                raise InvalidFieldError(item.field, outcome.reason) from outcome
            if isinstance(outcome, Exception):
                raise outcome
            if outcome.truncated and not truncate:
                raise InvalidFieldError(
                    item.field,
                    f"it is longer than the {outcome.tokens} tokens that the model reads",
                )
            embedded.append(EmbeddedItem(outcome, cached=item.key in cached))
        return embedded

    async def vectors(
        self, items: Sequence[EmbeddedItem], space: Literal["srs", "llm"]
    ) -> NDArray[np.float32]:
        """Return the vectors of a space, float32 ``[items, width]`` or ``[items, llm]``."""
        if space == "srs":
            return await self.adapt(items)
        return np.array([item.llm.values for item in items], dtype=np.float32)

    async def adapt(
        self,
        items: Sequence[EmbeddedItem],
        residuals: Sequence[NDArray[np.float32] | None] | None = None,
    ) -> NDArray[np.float32]:
        """Return item vectors in the SRS space, float32 ``[items, width]``; at least one item.

        Args:
            items: as the LLM reads them.
            residuals: of each, what training learnt of it besides, float32 ``[width]``; None: nothing.
        """
        keys = [
            (item.llm.values.tobytes(), None if residual is None else residual.tobytes())
            for item, residual in zip(items, residuals or repeat(None, len(items)), strict=True)
        ]
        with self._took.time():
            if len(keys) <= ADAPTED_AT_ONCE:
                return self._adapt(keys)
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._worker, self._adapt, keys)

    def _adapt(self, keys: Sequence[tuple[bytes, bytes | None]]) -> NDArray[np.float32]:
        return np.array([self._item_vector(*key) for key in keys])


def _adapted(bundle: Bundle, vector: bytes, residual: bytes | None) -> NDArray[np.float32]:
    # One at a time: a matrix product rounds by its shape, and an item's vector must not depend
    # on what else is in the request.
    llm = np.frombuffer(vector, dtype=np.float16)[np.newaxis]
    learnt = None
    if residual is not None:  # copied: PyTorch wants what it may write to
        learnt = np.frombuffer(residual, dtype=np.float32)[np.newaxis].copy()
    adapted: NDArray[np.float32] = bundle.adapt(llm, learnt)[0]
    return adapted
