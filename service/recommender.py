"""A sequence of items in, the next items out: item vectors, the backbone's user vector, the index.

Without a usable item in the sequence, or while the index is away, the most popular items are the answer.
"""

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from llmemb.bundle import Bundle
from service.embedder import Embedder, PreparedItem
from service.errors import IndexAwayError, InvalidFieldError
from service.explain import drivers, strongest
from service.live import LiveCatalogue
from service.live_items import LiveItems
from service.ranking import Wanted, ranked
from service.telemetry import Metrics
from service.user_vectors import UserVectors

Source = Literal["model", "popular"]


@dataclass(frozen=True)
class Recommendation:
    """The answer to one sequence.

    Attributes:
        items: ``(id, score)``, best first.
        source: whether scores are the model's inner products or numbers of training interactions.
        unknown: the ids in the sequence that the catalogue lacks, each once.
        eligible: how many items pass the filter.
        because: for each item, ``(place, change)`` of the entries of the sequence that drove it: where
            in the sequence it stands, and what the score loses without it. Only if asked for.
    """

    items: list[tuple[str, float]]
    source: Source
    unknown: list[str]
    eligible: int
    because: list[list[tuple[int, float]]] | None = None


@dataclass(frozen=True)
class _History:
    """What the backbone can read of a sequence.

    Attributes:
        entries: rows and cold items, oldest first.
        places: where in the sequence each stands.
        unknown: ids that the catalogue lacks, each once.
    """

    entries: list[int | PreparedItem]
    places: list[int]
    unknown: list[str]

    @classmethod
    def of(cls, sequence: Sequence[str | PreparedItem], items: LiveItems) -> "_History":
        entries = [
            entry if isinstance(entry, PreparedItem) else items.row_of.get(entry)
            for entry in sequence
        ]
        unknown = [
            given
            for given, entry in zip(sequence, entries, strict=True)
            if isinstance(given, str) and entry is None
        ]
        return cls(
            [entry for entry in entries if entry is not None],
            [place for place, entry in enumerate(entries) if entry is not None],
            list(dict.fromkeys(unknown)),
        )


class Recommender:
    """Recommends from the live catalogue."""

    def __init__(
        self,
        bundle: Bundle,
        *,
        live: LiveCatalogue,
        embedder: Embedder,
        users: UserVectors,
        metrics: Metrics,
    ) -> None:
        """Take the bundle, what can be recommended, and the backbone at work."""
        self._bundle = bundle
        self._live = live
        self._embedder = embedder
        self._users = users
        self._took = metrics.stages["index"]
        self._repeat_bias = float(bundle.backbone.repeat_bias.item())

    async def recommend(
        self,
        sequence: Sequence[str | PreparedItem],
        wanted: Wanted,
        *,
        exclude_seen: bool = True,
        exclude: Collection[str] = (),
        explain: bool = False,
    ) -> Recommendation:
        """Recommend the next items after a sequence.

        Args:
            sequence: ids and cold items, oldest first; ids that are not known are passed over.
            wanted: how many, and how they are chosen; fewer come only where fewer are eligible.
            exclude_seen: leave out the items of the sequence.
            exclude: ids to leave out too.
            explain: tell which entries of the sequence drove each item.

        Raises:
            InvalidFieldError: the model cannot embed a cold item.
            UnknownAttributeError: the filter names an attribute that no item has.
            OverloadedError: too much is waiting for the model.
        """
        items = self._live.items
        history = _History.of(sequence, items)
        excluded = items.rows(exclude)
        if not history.entries:
            return await self._most_popular(items, wanted, excluded, history.unknown, explain)
        seen = {entry for entry in history.entries if isinstance(entry, int)}
        vectors = await self._vectors(items, history.entries)
        user = await self._users.of(vectors)
        rank = partial(
            ranked,
            items,
            user,
            wanted,
            excluded=excluded | seen if exclude_seen else excluded,
            repeated=() if exclude_seen else seen - excluded,
            repeat_bias=self._repeat_bias,
        )
        try:
            with self._took.time():
                found, eligible = await asyncio.to_thread(rank)
        except IndexAwayError:
            hidden = excluded | seen if exclude_seen else excluded
            return await self._most_popular(items, wanted, hidden, history.unknown, explain)
        because = None
        if explain:
            shown = items.index.vectors([row for row, _ in found])
            changes = await drivers(self._users, vectors, user, shown)
            places = history.places[-len(vectors) :]
            because = [strongest(places, change) for change in changes]
        named = [(items.id_at(row), score) for row, score in found]
        return Recommendation(named, "model", history.unknown, eligible, because)

    async def standing(
        self, sequence: Sequence[str | PreparedItem], candidates: Sequence[PreparedItem]
    ) -> list[tuple[float, int]]:
        """Return the score and the rank among all items that each candidate has after a sequence.

        Raises:
            InvalidFieldError: nothing of the sequence is known, or the model cannot embed an item.
            OverloadedError: too much is waiting for the model.
        """
        items = self._live.items
        history = _History.of(sequence, items)
        if not history.entries:
            raise InvalidFieldError("sequence", "no item of it is known")
        user = await self._users.of(await self._vectors(items, history.entries))
        vectors = await self._embedder.adapt(await self._embedder.embed(candidates))
        scores = vectors @ user
        above = await asyncio.to_thread(items.index.above, user, scores)
        return list(zip(scores.tolist(), (above + 1).tolist(), strict=True))

    async def _vectors(
        self, items: LiveItems, entries: Sequence[int | PreparedItem]
    ) -> NDArray[np.float32]:
        """Return the item vectors that the backbone reads: the most recent, float32 ``[read, width]``."""
        recent = entries[-self._bundle.manifest.srs.max_length :]
        cold = [entry for entry in recent if isinstance(entry, PreparedItem)]
        vectors = np.empty((len(recent), self._bundle.manifest.srs.width), dtype=np.float32)
        is_row = np.array([isinstance(entry, int) for entry in recent])
        vectors[is_row] = items.index.vectors([e for e in recent if isinstance(e, int)])
        if cold:
            vectors[~is_row] = await self._embedder.adapt(await self._embedder.embed(cold))
        return vectors

    async def _most_popular(
        self,
        items: LiveItems,
        wanted: Wanted,
        excluded: Collection[int],
        unknown: list[str],
        explain: bool,
    ) -> Recommendation:
        """Recommend the items used most in training, then those that came since."""
        matching = await asyncio.to_thread(items.matching, wanted.conditions)
        ids = chain(items.trained, (one for one in items.row_of if one not in items.trained))
        eligible = (
            one
            for one in ids
            if (row := items.row_of.get(one)) is not None
            and row not in excluded
            and row < len(matching)
            and matching[row]
        )
        named = [(one, float(items.trained.get(one, 0))) for one in islice(eligible, wanted.k)]
        because: list[list[tuple[int, float]]] | None = [[] for _ in named] if explain else None
        return Recommendation(named, "popular", unknown, int(np.count_nonzero(matching)), because)
