"""The index of Milvus, outside of this process and shared by all replicas.

Milvus holds an item from the time when an index is built anew; until then, and for as long as Milvus may take
to show it, each replica searches it here. So a change that is acknowledged waits for nothing but Redis, and
Milvus may be away meanwhile. Replicas do not divide the work: each looks which items are missing, in an order
of its own, and writes those, so that most are written once. What a replica deletes is what no other will ever
want again: a key is of one state of one item.
"""

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmemb.catalogue import canonical
from service.index import SPARE, Among, Facts, ItemIndex, Rows, Vectors
from service.milvus import MOST, MilvusCollection
from service.milvus_filters import expression, filtered_fields

AT_ONCE = 500  # items that are looked for, and written, in one call
ROUNDS = 3  # that Milvus is asked for more, before all that is left is searched here


class MilvusIndex(ItemIndex):
    """Milvus searches; vectors are kept here too, to be scored and read."""

    engine = "milvus"

    def __init__(self, vectors: Vectors, keys: Rows, collection: MilvusCollection) -> None:
        """Take the items, all of which the collection holds.

        Args:
            vectors: float32 ``[items, width]``; kept, not copied.
            keys: of the items in the collection, int64 ``[items]``.
            collection: where they are.
        """
        super().__init__(vectors)
        self._collection = collection
        self.settle_seconds = collection.settle_seconds
        self._order = np.argsort(keys)
        self._keys = keys[self._order]

    @classmethod
    def of_bundle(
        cls, vectors: Vectors, facts: Facts, collection: MilvusCollection
    ) -> "MilvusIndex":
        """Return the index of a bundle's own items; writes those that the collection lacks.

        Raises:
            IndexAwayError: Milvus went away.
        """
        if collection.own() != len(vectors):
            _fill(collection, vectors, facts, np.arange(len(vectors)))
        return cls(vectors, facts.keys, collection)

    def rebuilt(self, rows: Rows, facts: Facts) -> "MilvusIndex":
        """Return an index of some rows; writes what Milvus lacks of them and deletes what is gone.

        Raises:
            IndexAwayError: Milvus is away; what was written until then does no harm.
        """
        vectors = self.vectors(rows)
        new = np.flatnonzero(~np.isin(facts.keys, self._keys))
        _fill(self._collection, vectors, facts, new)
        for some in _parts(np.setdiff1d(facts.gone, facts.keys)):
            if there := self._collection.contents(some.tolist()):
                self._collection.delete(list(there))
        return MilvusIndex(vectors, facts.keys, self._collection)

    def _candidates(
        self, query: Vectors, k: int, wanted: NDArray[np.bool_], hidden: int, among: Among | None
    ) -> Rows:
        """Return enough of the first rows.

        Each round asks for what comes after the items of those before it.
        """
        count = int(np.count_nonzero(wanted))
        enough = min(k + SPARE, count)
        found = np.empty(0, dtype=np.int64)
        if not enough:
            return found
        asked = expression(among.conditions, cold=among.cold) if among else ""
        limit = min(enough + hidden, MOST)
        passed: list[int] = []
        for _ in range(ROUNDS):
            keys = self._collection.search(query, limit, asked, passed)
            rows = self._rows_of(keys)
            found = np.concatenate([found, rows[wanted[rows]]])
            if len(found) >= enough:
                return found
            if len(keys) < limit:
                break
            passed += keys.tolist()
        # All of them, for the graph ended before enough were found: those that it found need not be the best.
        return np.flatnonzero(wanted)

    def _rows_of(self, keys: Rows) -> Rows:
        """Return the rows of those keys that are known."""
        places = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        return np.asarray(self._order[places[self._keys[places] == keys]])


def _fill(collection: MilvusCollection, vectors: Vectors, facts: Facts, places: Rows) -> None:
    """Write those of some items that the collection lacks, or has another content of."""
    for some in _parts(np.random.default_rng().permutation(places)):
        contents = {place: _content(facts, place) for place in some.tolist()}
        there = collection.contents(facts.keys[some].tolist())
        rows: list[dict[str, Any]] = [
            {
                "key": key,
                "content": content,
                "vector": vectors[place],
                **filtered_fields(facts.attributes[place], cold=bool(facts.cold[place])),
            }
            for place, content in contents.items()
            if there.get(key := int(facts.keys[place])) != content
        ]
        if rows:
            collection.write(rows)


def _content(facts: Facts, place: int) -> int:
    """Return 64 bits of which item it is and what its attributes are."""
    content = canonical(facts.attributes[place]) + facts.ids[place].encode()
    digest = hashlib.blake2b(content, digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def _parts(some: Rows) -> Iterator[Rows]:
    return (some[start : start + AT_ONCE] for start in range(0, len(some), AT_ONCE))
