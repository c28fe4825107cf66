"""All items that can be recommended now: their attributes, and their vectors in two indexes."""

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from functools import cached_property
from heapq import merge, nsmallest
from itertools import islice
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from llmemb.bundle import Bundle
from service.errors import UnknownAttributeError
from service.filters import Column, Condition, names_of, value_of
from service.index import Among, Facts, ItemIndex, own_keys, unit_length
from service.text_search import TextSearch, searched_text

HEAD_SHARE = 0.2  # of the items of training
RECENT, RECENT_SHARE = 1000, 0.01  # rows added or removed before the indexes are built anew


def changes_kept(items: int) -> float:
    """Return how many rows may be added or removed before the indexes of so many items are built anew."""
    return max(RECENT, RECENT_SHARE * items)


class LiveItems:
    """Items in rows; one that changes moves to a new row.

    One thread may put and remove while others search the indexes.

    Attributes:
        row_of: the row of each item, by its id.
        index: over item vectors.
        similar: over item vectors at unit length; the same index where all have it.
        trained: interactions of items in training, those with the most first.
    """

    def __init__(
        self,
        ids: list[str],
        attributes: list[dict[str, Any]],
        index: ItemIndex,
        similar: ItemIndex | None = None,
        *,
        trained: Mapping[str, int],
        updated: list[float] | None = None,
        keys: NDArray[np.int64] | None = None,
    ) -> None:
        """Take the items in order.

        Args:
            ids: one an item.
            attributes: one mapping an item.
            index: of their vectors.
            similar: of their vectors at unit length; None: they have it.
            trained: interactions of items in training, those with the most first; an item that is not
                there has none.
            updated: when each was put, in seconds since 1970; 0: it is the bundle's own, as all are
                where this is not given.
            keys: see :class:`~service.index.Facts`; None: all are the bundle's own.
        """
        self._ids = ids
        self._attributes = attributes
        self.trained = trained
        self._updated = updated or [0.0] * len(ids)
        self._keys = array("q", own_keys(len(ids)) if keys is None else keys)
        self._popularity = [trained.get(item_id, 0) for item_id in ids]
        self._columns: dict[str, Column] = {}
        self._first = len(ids)
        self.row_of = {item_id: row for row, item_id in enumerate(ids)}
        self.index = index
        self.similar = similar or index

    @classmethod
    def of_bundle(cls, bundle: Bundle, index: ItemIndex, similar: ItemIndex | None) -> Self:
        """Return the items of a bundle as it was trained, with their indexes."""
        popularity = zip(bundle.catalogue.ids, bundle.popularity.tolist(), strict=True)
        return cls(
            list(bundle.catalogue.ids),
            list(bundle.catalogue.attributes),
            index,
            similar,
            trained=dict(sorted(popularity, key=lambda one: -one[1])),
        )

    def __len__(self) -> int:
        return len(self.row_of)

    @property
    def stale(self) -> bool:
        """Whether enough has changed for :meth:`compacted` to pay."""
        changed = self.index.added + self.index.removed
        return changed > changes_kept(self._first)

    def put(
        self,
        item_id: str,
        attributes: dict[str, Any],
        vector: NDArray[np.float32],
        updated: float = 0.0,
        *,
        key: int,
    ) -> None:
        """Add an item, or replace it.

        Args:
            item_id: its id.
            attributes: in canonical form.
            vector: float32 ``[width]``.
            updated: when it was put, in seconds since 1970; 0: it is the bundle's own.
            key: see :class:`~service.index.Facts`.
        """
        self.remove(item_id)  # first: who searches meanwhile must not find both
        self._ids.append(item_id)
        self._attributes.append(attributes)
        self._updated.append(updated)
        self._keys.append(key)
        self._popularity.append(self.trained.get(item_id, 0))
        if self.similar is not self.index:
            self.similar.add(unit_length(vector))
        self.row_of[item_id] = self.index.add(vector)

    def remove(self, item_id: str) -> None:
        """Remove an item, if it is there."""
        row = self.row_of.pop(item_id, None)
        if row is not None:
            self.index.remove(row)
            if self.similar is not self.index:
                self.similar.remove(row)

    def adopt(self, item_id: str, other: "LiveItems") -> None:
        """Make an item what it is among other items."""
        row = other.row_of.get(item_id)
        if row is None:
            self.remove(item_id)
        else:
            (vector,) = other.index.vectors([row])
            facts = (other._attributes[row], vector, other._updated[row])
            self.put(item_id, *facts, key=other._keys[row])

    def id_at(self, row: int) -> str:
        """Return the id of the item that a row is, or was."""
        return self._ids[row]

    def attributes_at(self, row: int) -> dict[str, Any]:
        """Return the attributes of the item that a row is, or was."""
        return self._attributes[row]

    def rows(self, ids: Iterable[str]) -> set[int]:
        """Return the rows of those ids that are known."""
        return {row for item_id in ids if (row := self.row_of.get(item_id)) is not None}

    def popularity(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the training interactions of rows, int64 ``[rows]``."""
        return np.array([self._popularity[row] for row in rows], dtype=np.int64)

    def updated(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return when rows were put, float64 ``[rows]``, in seconds since 1970; 0: the bundle's own."""
        return np.array([self._updated[row] for row in rows], dtype=np.float64)

    def kind(self, item_id: str) -> str:
        """Return ``head``, ``tail`` or ``cold``: the fifth most used in training, others used, the rest."""
        if item_id in self._head:
            return "head"
        return "tail" if self.trained.get(item_id) else "cold"

    def cold(self, rows: int) -> NDArray[np.bool_]:
        """Return which of the first so many rows have no training interaction, bool ``[rows]``."""
        added = [count == 0 for count in self._popularity[self._first : rows]]
        return np.concatenate([self._cold, np.array(added, dtype=bool)])

    def matching(self, conditions: Mapping[str, Condition]) -> NDArray[np.bool_]:
        """Return the rows whose items are there and as asked, bool ``[rows]``.

        Args:
            conditions: by attribute; ``colour.name`` is the attribute ``name`` of the object
                ``colour``.

        Raises:
            UnknownAttributeError: no item has one of these attributes.
        """
        mask = self.index.present()
        for name, condition in conditions.items():
            column = self._column(name)
            values = [value_of(self._attributes[i], name) for i in range(self._first, len(mask))]
            if column.empty and all(value is None for value in values):
                raise UnknownAttributeError(name)
            mask[: self._first] &= column.mask(condition)
            mask[self._first :] &= np.array(list(map(condition.holds, values)), dtype=bool)
        return mask

    def among(self, conditions: Mapping[str, Condition], *, cold: bool = False) -> Among | None:
        """Return the items that a search may answer; None: all.

        Args:
            conditions: see :meth:`matching`.
            cold: only those without a training interaction.

        Raises:
            UnknownAttributeError: no item has one of these attributes.
        """
        if not conditions and not cold:
            return None
        rows = self.matching(conditions)
        if cold:
            rows &= self.cold(len(rows))
        return Among(rows, conditions, cold)

    def page(self, after: str, count: int) -> list[str]:
        """Return the next ids after an id (which need not exist), in order of their code points."""
        recent = {one for one in self._ids[self._first :] if one > after and one in self.row_of}
        start = bisect_right(self._sorted, after)
        first = (self._sorted[i] for i in range(start, len(self._sorted)))
        older = (one for one in first if one in self.row_of and one not in recent)
        return list(islice(merge(sorted(recent), older), count))

    def search(self, text: str, count: int) -> list[str]:
        """Return ids of items whose id or texts hold a text, those used most in training first.

        The first search makes the table that it and later ones look in.
        """
        text = text.casefold()
        added = range(self._first, len(self._ids))
        recent = [
            row for row in added if text in searched_text(self._ids[row], self._attributes[row])
        ]
        rows = [*self._texts.rows(text).tolist(), *recent]
        here = [row for row in rows if self.row_of.get(self._ids[row]) == row]
        most_used = nsmallest(count, here, key=lambda row: (-self._popularity[row], row))
        return [self._ids[row] for row in most_used]

    def compacted(self, rows: NDArray[np.int64]) -> "LiveItems":
        """Return the items of some rows with nothing added and nothing removed; runs in any thread.

        Raises:
            IndexAwayError: the indexes' engine does not answer.
        """
        keys = np.array(self._keys, dtype=np.int64)
        ids = [self._ids[row] for row in rows]
        attributes = [self._attributes[row] for row in rows]
        cold = self.popularity(rows) == 0
        facts = Facts(keys[rows], ids, attributes, cold, gone=np.delete(keys, rows))
        items = LiveItems(
            ids,
            attributes,
            self.index.rebuilt(rows, facts),
            None if self.similar is self.index else self.similar.rebuilt(rows, facts),
            trained=self.trained,
            updated=[self._updated[row] for row in rows],
            keys=facts.keys,
        )
        for name in list(self._columns):
            items._column(name)  # so that nobody waits for it
        return items

    def _column(self, name: str) -> Column:
        """Return one attribute of the first rows; made when it is first asked for, and kept.

        For a name that none of them has, nothing is made: there is no end of such names.
        """
        if name not in self._names:
            return self._nothing
        column = self._columns.get(name)
        if column is None:
            column = Column([value_of(one, name) for one in self._attributes[: self._first]])
            self._columns[name] = column
        return column

    @cached_property
    def _names(self) -> frozenset[str]:
        first = self._attributes[: self._first]
        return frozenset(name for attributes in first for name in names_of(attributes))

    @cached_property
    def _nothing(self) -> Column:
        return Column([None] * self._first)

    @cached_property
    def _head(self) -> frozenset[str]:
        most_used = islice(self.trained.items(), round(HEAD_SHARE * len(self.trained)))
        return frozenset(item_id for item_id, count in most_used if count)

    @cached_property
    def _cold(self) -> NDArray[np.bool_]:
        cold: NDArray[np.bool_] = np.array(self._popularity[: self._first], dtype=np.int64) == 0
        return cold

    @cached_property
    def _texts(self) -> TextSearch:
        return TextSearch(self._ids[: self._first], self._attributes[: self._first])

    @cached_property
    def _sorted(self) -> list[str]:
        return sorted(self._ids[: self._first])
