"""What every reader hands to the checks: raw items and raw interactions, each with its line.

A reader knows one source's files and columns; what makes a row bad is decided by the checks.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from llmemb.errors import DataError
from trainer.data.report import Report, one_line


class RawItem(NamedTuple):
    """One row of a catalogue as the source spells it; ``id`` may still be of any type."""

    line: int
    id: Any
    attributes: dict[str, Any]


@dataclass(frozen=True)
class RawData:
    """A raw data set; both iterators are used once, the items before the interactions.

    Attributes:
        domain: what an item is, in a word, unless the user says otherwise.
        items: one a row, in file order.
        interactions: blocks of rows in file order, with columns ``line`` (integer), ``user`` and
            ``item`` (string, null where missing) and ``timestamp`` (string, number or date, null
            where missing; the same type in every block).
    """

    domain: str
    items_file: Path
    items: Iterator[RawItem]
    interactions_file: Path
    interactions: Iterator[pl.DataFrame]


Columns = Mapping[str, str | None]
"""For each of ``user``, ``item`` and ``timestamp`` the file's column, or None where it has none."""

Reader = Callable[[Path, Report], RawData]
"""Takes the raw folder and the report that rows it cannot even parse are entered in."""


def find_file(folder: Path, names: list[str], layouts: str) -> Path:
    """Return the one file of these names that the folder holds.

    Raises:
        DataError: none of them is there, or more than one.
    """
    found = [folder / name for name in names if (folder / name).is_file()]
    if not found:
        raise DataError(f"{folder}: {' or '.join(names)} is not there; expected {layouts}")
    if len(found) > 1:
        there = " and ".join(file.name for file in found)
        raise DataError(f"{folder}: {there} are both there; keep the one to read, move the other")
    return found[0]


def check_columns(where: str, found: Sequence[str], needed: list[str]) -> None:
    """Check that the columns found include those needed.

    Raises:
        DataError: one is missing; ``where`` opens the message.
    """
    if missing := [name for name in needed if name not in found]:
        raise DataError(
            f"{where}: no column {' and no column '.join(missing)}; the columns are "
            f"{one_line(', '.join(found))}; rename the right one"
        )
