"""Streams in pieces."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

T = TypeVar("T")


def batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Cut a stream into lists of so many, the last one shorter."""
    stream = iter(items)
    while batch := list(islice(stream, size)):
        yield batch
