"""A sequence of items in, the next items out: item vectors, the backbone's user vector, the index.

Without a usable item in the sequence the most popular items are the answer.
"""

import asyncio
import heapq
from collections.abc import Collection, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from itertools import islice
from operator import itemgetter
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from llmemb.bundle import Bundle
from service.embedder import Embedder, PreparedItem
from service.index import ItemIndex

Source = Literal["model", "popular"]


@dataclass(frozen=True)
class Recommendation:
    """The answer to one sequence.

    Attributes:
        items: ``(id, score)``, best first.
        source: whether scores are the model's inner products or numbers of training interactions.
        unknown: the ids in the sequence that the catalogue lacks, each once.
    """

    items: list[tuple[str, float]]
    source: Source
    unknown: list[str]


class Recommender:
    """Recommends from one bundle's catalogue."""

    def __init__(
        self, bundle: Bundle, *, index: ItemIndex, embedder: Embedder, worker: Executor
    ) -> None:
        """Take the bundle, an index over its item vectors, and the thread that runs the backbone."""
        self._bundle = bundle
        self._index = index
        self._embedder = embedder
        self._worker = worker
        self._by_popularity = np.argsort(-bundle.popularity, kind="stable").tolist()

    async def recommend(
        self,
        sequence: Sequence[str | PreparedItem],
        *,
        k: int,
        exclude_seen: bool,
        exclude: Collection[str],
    ) -> Recommendation:
        """Recommend the next items after a sequence.

        Args:
            sequence: ids and cold items, oldest first; ids that are not known are passed over.
            k: how many are wanted; fewer come only where fewer are eligible.
            exclude_seen: leave out the items of the sequence.
            exclude: ids to leave out too.

        Raises:
            InvalidFieldError: the model cannot embed a cold item.
            OverloadedError: too much is waiting for the model.
        """
        known = self._bundle.catalogue.index
        usable: list[int | PreparedItem] = []
        unknown: dict[str, None] = {}
        for entry in sequence:
            if isinstance(entry, PreparedItem):
                usable.append(entry)
            elif (position := known.get(entry)) is not None:
                usable.append(position)
            else:
                unknown[entry] = None
        excluded = {known[item_id] for item_id in exclude if item_id in known}
        seen = {entry for entry in usable if isinstance(entry, int)} - excluded
        source: Source = "model" if usable else "popular"
        if usable:
            user = await self.user_vector(usable)
            found = await asyncio.to_thread(self._index.search, user, k, excluded | seen)
            if not exclude_seen:
                found = heapq.nlargest(k, found + self._repeats(user, seen), key=itemgetter(1))
        else:
            found = self._popular(k, excluded)
        ids = self._bundle.catalogue.ids
        return Recommendation([(ids[i], score) for i, score in found], source, list(unknown))

    async def user_vector(self, sequence: Sequence[int | PreparedItem]) -> NDArray[np.float32]:
        """Return the backbone's user vector, float32 ``[width]``, after the most recent items.

        Args:
            sequence: positions in the catalogue and cold items, oldest first, at least one.
        """
        recent = sequence[-self._bundle.manifest.srs.max_length :]
        cold = [entry for entry in recent if isinstance(entry, PreparedItem)]
        adapted = iter(await self._embedder.adapt(await self._embedder.embed(cold)) if cold else ())
        vectors = np.stack(
            [
                next(adapted)
                if isinstance(entry, PreparedItem)
                else self._bundle.item_vectors[entry]
                for entry in recent
            ]
        )
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._worker, self._run_backbone, vectors)

    @torch.inference_mode()
    def _run_backbone(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        batch, lengths = torch.from_numpy(vectors).unsqueeze(0), torch.tensor([len(vectors)])
        user: NDArray[np.float32] = self._bundle.backbone.user_vectors(batch, lengths)[0].numpy()
        return user

    def _repeats(self, user: NDArray[np.float32], seen: Collection[int]) -> list[tuple[int, float]]:
        """Return the items of the sequence itself with their scores, which hold the repeat bias."""
        positions = list(seen)
        scores = self._bundle.item_vectors[positions] @ user
        scores += self._bundle.backbone.repeat_bias.item()
        return list(zip(positions, scores.tolist(), strict=True))

    def _popular(self, k: int, excluded: Collection[int]) -> list[tuple[int, float]]:
        eligible = (i for i in self._by_popularity if i not in excluded)
        return [(i, float(self._bundle.popularity[i])) for i in islice(eligible, k)]
