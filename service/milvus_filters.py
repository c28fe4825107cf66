"""Filters by attributes as Milvus takes them.

Milvus keeps of each attribute what a filter can ask of it: a term for every value, which is a hash of the
name and the value, and the least and the largest number. No name and no text of a catalogue or a request
comes into an expression. An expression holds for every item for which the conditions hold, and for few
others: of a list of numbers it knows the bounds alone. Whoever searches looks again.
"""

import hashlib
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from service.filters import Condition, Value, keys_of

OVERFULL, COLD = 0, 1  # terms of no attribute
MAX_TERMS, MAX_RANGES = 4096, 1024  # of one item; Milvus takes arrays so long, and 64 KiB of JSON


def filtered_fields(attributes: Mapping[str, Any], *, cold: bool) -> dict[str, Any]:
    """Return the fields of an item that filters ask for: ``terms``, ``low`` and ``high``.

    Args:
        attributes: the item's.
        cold: whether it has no training interaction.
    """
    terms = {COLD} if cold else set()
    low, high = {}, {}
    for name, value in _named(attributes).items():
        keys = list(keys_of(value))
        terms |= {_term(name, key) for key in keys}
        if numbers := [key for key in keys if isinstance(key, int | float)]:
            low[_field(name)] = _rounded(min(numbers), -math.inf)
            high[_field(name)] = _rounded(max(numbers), math.inf)
    if len(terms) > MAX_TERMS or len(low) > MAX_RANGES:
        return {"terms": [OVERFULL], "low": {}, "high": {}}
    return {"terms": sorted(terms), "low": low, "high": high}


def expression(conditions: Mapping[str, Condition], *, cold: bool) -> str:
    """Return the expression of a filter; empty: it asks nothing that Milvus knows.

    Args:
        conditions: by attribute; each must hold.
        cold: only items without a training interaction.
    """
    parts = [_having([COLD])] if cold else []
    for name, condition in conditions.items():
        parts += _of_one(name, condition)
    return " and ".join(parts)


def _of_one(name: str, condition: Condition) -> Iterator[str]:
    if condition.any is not None:
        yield _having(_terms(name, condition.any))
    for value in condition.all or ():
        yield _having(_terms(name, [value]))
    if condition.none:
        yield f"not array_contains_any(terms, {_terms(name, condition.none)})"
    bounds = [
        f'{side}["{_field(name)}"] {sign} {_rounded(bound, towards)!r}'
        for side, sign, bound, towards in (
            ("high", ">=", condition.gte, -math.inf),
            ("high", ">=", condition.gt, -math.inf),
            ("low", "<=", condition.lte, math.inf),
            ("low", "<=", condition.lt, math.inf),
        )
        if bound is not None and math.isfinite(bound)
    ]
    if bounds:
        yield f"(({' and '.join(bounds)}) or array_contains_any(terms, [{OVERFULL}]))"


def _having(terms: Sequence[int]) -> str:
    return f"array_contains_any(terms, {[*terms, OVERFULL]})"


def _terms(name: str, values: Sequence[Value]) -> list[int]:
    return [_term(name, key) for key in keys_of(values)]


def _term(name: str, key: Any) -> int:
    """Return 64 bits for an attribute's value; equal numbers have the same."""
    whole = isinstance(key, float) and key.is_integer()
    return int.from_bytes(_hashed([name, int(key) if whole else key]), "big", signed=True)


def _field(name: str) -> str:
    return f"a{_hashed([name]).hex()}"


def _hashed(parts: list[Any]) -> bytes:
    return hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()


def _rounded(number: float, towards: float) -> float:
    """Return a number as a double, the next one where it is none; a larger one than all, as the largest."""
    double = float(min(max(number, -sys.float_info.max), sys.float_info.max))
    wrong = double > number if towards < 0 else double < number
    return math.nextafter(double, towards) if wrong else double


def _named(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return attributes by all names that :func:`service.filters.value_of` finds them by."""
    found = dict(attributes)

    def descend(prefix: str, inner: Mapping[str, Any]) -> None:
        for name, value in inner.items():
            if "." not in name:
                found.setdefault(prefix + name, value)
                if isinstance(value, Mapping):
                    descend(f"{prefix}{name}.", value)

    descend("", attributes)
    return found
