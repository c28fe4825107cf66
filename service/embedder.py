"""From an item's attributes to its vectors: canonical form, cache, engine, then the adapter."""

import asyncio
import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmemb.bundle import Bundle
from llmemb.catalogue import MAX_ITEM_BYTES, canonical, content_hash
from llmemb.errors import ItemError
from service.cache import VectorCache
from service.engine import Engine
from service.errors import InvalidFieldError
from service.llm_vector import LLMVector


@dataclass(frozen=True)
class PreparedItem:
    """An item that has been checked and put into words.

    Attributes:
        field: where in the request its attributes stand, for messages.
        key: the content hash.
        prompt: what the LLM reads.
    """

    field: str
    key: str
    prompt: str


@dataclass(frozen=True)
class EmbeddedItem:
    """An item's LLM vector, and whether it came from the cache."""

    llm: LLMVector
    cached: bool


class Embedder:
    """Embeds items of any origin with one bundle."""

    def __init__(
        self, bundle: Bundle, *, cache: VectorCache, engine: Engine, worker: Executor
    ) -> None:
        """Take the bundle, where vectors come from, and the thread that runs the adapter."""
        self._bundle = bundle
        self._cache = cache
        self._engine = engine
        self._worker = worker

    def prepare(self, attributes: Mapping[str, Any], field: str) -> PreparedItem:
        """Check an item's attributes and write its prompt.

        Args:
            attributes: as the request gives them.
            field: where in the request they stand.

        Raises:
            InvalidFieldError: they cannot be used, or the model would read nothing of them.
        """
        template = self._bundle.manifest.prompt
        try:
            # The prompt is written from the canonical form, as the key is: two spellings of an item
            # share a key, so they must share the text behind the vector too.
            item = json.loads(canonical(attributes))
        except ItemError as error:
            path = ".".join([field, *map(str, error.path)])
            raise InvalidFieldError(path, error.reason) from error
        if not template.readable(item):
            besides = f" besides {', '.join(template.exclude)}" if template.exclude else ""
            raise InvalidFieldError(
                field, f"there is nothing to read: no attribute has a value{besides}"
            )
        return PreparedItem(field, content_hash(item), template.render(item))

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
        return PreparedItem(field, hashlib.sha256(b"text:" + data).hexdigest(), text)

    async def embed(
        self, items: Sequence[PreparedItem], *, truncate: bool = True
    ) -> list[EmbeddedItem]:
        """Return the LLM vector of each item, in order; the same item twice is computed once.

        Args:
            items: checked items.
            truncate: take an item whose end the model does not read.

        Raises:
            InvalidFieldError: the model cannot embed one of them.
            OverloadedError: too much is waiting for the model.
        """
        prompts = {item.key: item.prompt for item in items}
        cached = await self._cache.read(list(prompts))
        missing = {key: prompt for key, prompt in prompts.items() if key not in cached}
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

    async def adapt(self, items: Sequence[EmbeddedItem]) -> NDArray[np.float32]:
        """Return item vectors in the SRS space, float32 ``[items, width]``; at least one item."""
        vectors = [item.llm.values for item in items]
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._worker, self._adapt, vectors)

    def _adapt(self, vectors: Sequence[NDArray[np.float16]]) -> NDArray[np.float32]:
        # One at a time: a matrix product rounds by its shape, and an item's vector must not depend
        # on what else is in the request.
        return np.concatenate([self._bundle.adapt(vector[np.newaxis]) for vector in vectors])
