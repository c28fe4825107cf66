"""Filters by attributes: which items have, or do not have, which values.

Values are compared as the catalogue compares them: text in Unicode's composed form, without blanks around
it, and ``1.0`` equal to ``1``. An attribute that is a list has each of its entries.
"""

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmemb.catalogue import canonical_text

Value = str | int | float | bool


@dataclass(frozen=True)
class Condition:
    """What is asked of one attribute; of several things each must hold.

    Attributes:
        any: it has at least one of these values.
        all: it has every one of them.
        none: it has none of them; an item without the attribute passes.
        gte, gt, lte, lt: one of its numbers is within these bounds.
    """

    any: Sequence[Value] | None = None
    all: Sequence[Value] | None = None
    none: Sequence[Value] | None = None
    gte: float | None = None
    gt: float | None = None
    lte: float | None = None
    lt: float | None = None

    @property
    def bounded(self) -> bool:
        """Whether there are bounds."""
        return (self.gte, self.gt, self.lte, self.lt) != (None,) * 4

    def holds(self, value: Any) -> bool:
        """Return whether an attribute's value is as asked; None: the item lacks the attribute."""
        found = set(keys_of(value))
        numbers = (one for one in found if isinstance(one, int | float))
        return (
            (self.any is None or not found.isdisjoint(map(_key, self.any)))
            and (self.all is None or found.issuperset(map(_key, self.all)))
            and (self.none is None or found.isdisjoint(map(_key, self.none)))
            and (not self.bounded or any(map(self._within, numbers)))
        )

    def _within(self, number: float) -> bool:
        return (
            (self.gte is None or number >= self.gte)
            and (self.gt is None or number > self.gt)
            and (self.lte is None or number <= self.lte)
            and (self.lt is None or number < self.lt)
        )


class Column:
    """One attribute of many items, turned round: from values to rows."""

    def __init__(self, values: Sequence[Any]) -> None:
        """Take the attribute's value in each row; None where an item lacks it."""
        rows: defaultdict[Any, list[int]] = defaultdict(list)
        for row, value in enumerate(values):
            for key in set(keys_of(value)):
                rows[key].append(row)
        self._size = len(values)
        self._rows = {key: np.array(found, dtype=np.int32) for key, found in rows.items()}
        self._numbers = sorted(key for key in self._rows if isinstance(key, int | float))

    @property
    def empty(self) -> bool:
        """Whether no item has the attribute."""
        return not self._rows

    def mask(self, condition: Condition) -> NDArray[np.bool_]:
        """Return the rows for which a condition holds, bool ``[rows]``."""
        mask = np.ones(self._size, dtype=bool)
        if condition.any is not None:
            mask &= self._having(condition.any)
        for value in condition.all or ():
            mask &= self._having([value])
        if condition.none is not None:
            mask &= ~self._having(condition.none)
        if condition.bounded:
            mask &= self._between(condition)
        return mask

    def _having(self, values: Sequence[Value]) -> NDArray[np.bool_]:
        return self._marked(
            [self._rows[key] for key in set(map(_key, values)) if key in self._rows]
        )

    def _between(self, condition: Condition) -> NDArray[np.bool_]:
        numbers = self._numbers
        first, last = 0, len(numbers)
        if condition.gte is not None:
            first = max(first, bisect_left(numbers, condition.gte))
        if condition.gt is not None:
            first = max(first, bisect_right(numbers, condition.gt))
        if condition.lte is not None:
            last = min(last, bisect_right(numbers, condition.lte))
        if condition.lt is not None:
            last = min(last, bisect_left(numbers, condition.lt))
        return self._marked([self._rows[number] for number in numbers[first:last]])

    def _marked(self, parts: Sequence[NDArray[np.int32]]) -> NDArray[np.bool_]:
        mask = np.zeros(self._size, dtype=bool)
        for rows in parts:
            mask[rows] = True
        return mask


def value_of(attributes: Mapping[str, Any], name: str) -> Any:
    """Return an attribute, or ``a.b`` for ``b`` of the object ``a``; None where there is none."""
    if name in attributes:
        return attributes[name]
    value: Any = attributes
    for part in name.split("."):
        if not isinstance(value, Mapping):
            return None
        value = value.get(part)
    return value


def names_of(attributes: Mapping[str, Any]) -> Iterator[str]:
    """Yield every name under which :func:`value_of` finds something."""
    for name, value in attributes.items():
        yield name
        if isinstance(value, Mapping):
            yield from (f"{name}.{inner}" for inner in names_of(value))


def keys_of(value: Any) -> Iterator[Any]:
    """Yield what an attribute's value can be asked for; objects cannot."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        for inner in value:
            yield from keys_of(inner)
    elif value is not None and not isinstance(value, Mapping):
        yield _key(value)


def _key(value: Value) -> Any:
    if isinstance(value, str):
        return canonical_text(value)
    # True equals 1 in Python, and not in JSON.
    return (value,) if isinstance(value, bool) else value
