"""What searches the item vectors, whichever engine does: FAISS in this process, or Milvus outside of it.

To its callers an index is rows. An item that changes moves to a new row, and no row is used twice. The first
rows are the engine's, which finds candidates among them. Those added since are few, and searched here in one
matrix product: an item can be recommended on this replica as soon as it is put, whatever the engine does
meanwhile. Now and then an index is built anew, off the path of requests, and hands all rows to its engine.

An engine only proposes. Which rows may be answered is decided here, row by row, and scores are computed here
from the vectors as they were given. An engine that is late, coarse or shared can therefore propose what has
gone, or filter too little: it costs time, and no answer is wrong. A search blocks and runs in a thread; it
ends in time, or raises :class:`~service.errors.IndexAwayError`.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from service.filters import Condition

SPARE = 32  # items to score again, besides those wanted

Rows = NDArray[np.int64]
Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class Among:
    """The items that a search may answer, and how they can be told elsewhere.

    Attributes:
        rows: bool ``[rows]``; rows after its end may not be answered.
        conditions: what their attributes are; for engines that keep attributes themselves.
        cold: whether they are those without a training interaction alone.
    """

    rows: NDArray[np.bool_]
    conditions: Mapping[str, Condition] = field(default_factory=dict)
    cold: bool = False


@dataclass(frozen=True)
class Facts:
    """What an engine outside of this process keeps of items, besides their vectors.

    Attributes:
        keys: what each is known by there, int64 ``[items]``: the version of the catalogue that it came with;
            below 0: it is the bundle's own. No other item, and no other state of it, ever has the same.
        ids: of the items.
        attributes: one mapping an item.
        cold: which have no training interaction, bool ``[items]``.
        gone: keys of what was replaced or removed, int64 ``[gone]``.
    """

    keys: Rows
    ids: Sequence[str]
    attributes: Sequence[Mapping[str, Any]]
    cold: NDArray[np.bool_]
    gone: Rows


class ItemIndex(ABC):
    """Finds the items whose vectors have the largest inner product with a query.

    One thread may add and remove while others search.

    Attributes:
        engine: what searches the first rows.
        rows: how many there are, those removed included.
        removed: how many were.
        lists: inverted lists that the engine shows; 0: it has none.
        probes: how many of them are read to find at most so many items, by that number.
        recall: the share of the best items, as many, that is found then.
        settle_seconds: after so long each search finds what the engine was handed.
    """

    engine: ClassVar[Literal["faiss", "milvus"]]
    settle_seconds: float = 0

    def __init__(self, vectors: Vectors) -> None:
        """Take float32 ``[items, width]``; an item's row is its position in every answer.

        Args:
            vectors: kept, not copied.
        """
        self._vectors = vectors
        self._added = np.empty((0, vectors.shape[1]), dtype=np.float32)
        self._alive = np.ones(len(vectors), dtype=bool)
        self.rows = len(vectors)
        self.removed = 0
        self.lists = 0
        self.probes: dict[int, int] = {}
        self.recall: dict[int, float] = {}

    @abstractmethod
    def rebuilt(self, rows: Rows, facts: Facts) -> Self:
        """Return an index of some rows with nothing added and nothing removed; runs in any thread.

        Args:
            rows: which.
            facts: of these rows.

        Raises:
            IndexAwayError: the engine does not answer; this index stays as it is.
        """

    @abstractmethod
    def _candidates(
        self, query: Vectors, k: int, wanted: NDArray[np.bool_], hidden: int, among: Among | None
    ) -> Rows:
        """Return enough of the first rows for the best to be among them, in any order, each once.

        Args:
            query: float32 ``[width]``.
            k: how many are wanted.
            wanted: which of the first rows may be answered.
            hidden: how many of what is near may not.
            among: what makes a row wanted; None: no filter does.

        Raises:
            IndexAwayError: the engine does not answer.
        """

    @property
    def added(self) -> int:
        """How many rows there are besides the first ones."""
        return self.rows - len(self._vectors)

    def add(self, vector: Vectors) -> int:
        """Add float32 ``[width]`` and return its row."""
        row = self.rows
        if self.added == len(self._added):
            # Copied, not resized: who searches goes on with the old one.
            room = np.empty((max(64, len(self._added)), len(vector)), dtype=np.float32)
            self._added = np.concatenate([self._added, room])
            self._alive = np.concatenate([self._alive, np.zeros(len(room), dtype=bool)])
        self._added[self.added] = vector
        self._alive[row] = True
        self.rows += 1
        return row

    def remove(self, row: int) -> None:
        """Leave a row out of every answer from now on."""
        self._alive[row] = False
        self.removed += 1

    def vectors(self, rows: Collection[int] | Rows) -> Vectors:
        """Return float32 ``[rows, width]``; those of removed rows are still there."""
        wanted = np.asarray(list(rows), dtype=np.int64)
        found = np.empty((len(wanted), self._vectors.shape[1]), dtype=np.float32)
        first = wanted < len(self._vectors)
        found[first] = self._vectors[wanted[first]]
        found[~first] = self._added[wanted[~first] - len(self._vectors)]
        return found

    def present(self) -> NDArray[np.bool_]:
        """Return which rows are there and not removed, bool ``[rows]``; a copy."""
        rows = self.rows  # first: what is added meanwhile does not count
        return self._alive[:rows].copy()

    def above(self, query: Vectors, scores: Vectors) -> Rows:
        """Return how many items score higher than each of some scores, int64 ``[scores]``.

        Args:
            query: float32 ``[width]``.
            scores: float32 ``[scores]``.
        """
        present = self.present()
        added = self._added[: len(present) - len(self._vectors)]
        ordered = np.sort(np.concatenate([self._vectors @ query, added @ query])[present])
        return len(ordered) - np.searchsorted(ordered, scores, "right")

    def search(
        self,
        query: Vectors,
        k: int,
        excluded: Collection[int] = (),
        among: Among | None = None,
    ) -> tuple[Rows, Vectors]:
        """Return the rows of the best items and their scores, best first.

        Args:
            query: float32 ``[width]``.
            k: how many are wanted.
            excluded: rows that may not be answered.
            among: those that may; None: all others.

        Returns:
            int64 and float32 ``[found]``, exactly ``min(k, items that are there and may be answered)``.

        Raises:
            IndexAwayError: the engine does not answer.
        """
        wanted = self.present()
        if among is not None:
            wanted[: len(among.rows)] &= among.rows[: len(wanted)]
            wanted[len(among.rows) :] = False
        wanted[list(excluded)] = False
        first = len(self._vectors)
        found = self._candidates(query, k, wanted[:first], len(excluded), among)
        recent = np.flatnonzero(wanted[first:])
        scores = np.concatenate([self._vectors[found] @ query, self._added[recent] @ query])
        best = np.argsort(-scores, kind="stable")[:k]
        return np.concatenate([found, recent + first])[best], scores[best]


def own_keys(items: int) -> Rows:
    """Return the keys of a bundle's own items, int64 ``[items]``: -1 and down."""
    return -1 - np.arange(items)


def unit_length(vectors: Vectors) -> Vectors:
    """Scale float32 ``[..., width]`` to length 1, so that inner product is cosine; zero stays zero."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, np.finfo(np.float32).tiny), dtype=np.float32)
