"""Source ``recbole``: atomic files, tab-separated with a header of ``name:type``."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl

from llmemb.errors import DataError
from trainer.data.lines import line_frames, numbered_lines, split_fields
from trainer.data.raw import RawData, RawItem, check_columns
from trainer.data.report import Report, one_line

LAYOUT = "NAME.inter (user_id, item_id, optionally timestamp) beside NAME.item (item_id)"
TEXT_NAMES = ("title", "name", "description")
"""A ``token_seq`` whose column name holds one of these is prose, not a list."""


def read_recbole(raw: Path, report: Report) -> RawData:
    """Read ``NAME.inter`` and ``NAME.item``; attributes keep the names of their columns.

    A ``token`` stays text, a ``float`` is a number, a ``token_seq`` or ``float_seq`` a list; empty
    fields are left out.

    Raises:
        DataError: a file or a column is missing, or a header is not one of atomic files.
    """
    interactions = _interactions_file(raw)
    items = interactions.with_suffix(".item")
    if not items.is_file():
        raise DataError(f"{items} is not there; expected {LAYOUT}")
    return RawData(
        domain="item",
        items_file=items,
        items=_items(items, report),
        interactions_file=interactions,
        interactions=_interactions(interactions, report),
    )


def _interactions_file(raw: Path) -> Path:
    found = sorted(raw.glob("*.inter"))
    if not found:
        raise DataError(f"{raw}: no .inter file is there; expected {LAYOUT}")
    if len(found) > 1:
        names = ", ".join(file.name for file in found)
        raise DataError(f"{raw}: more than one .inter file ({names}); keep the one to read")
    return found[0]


def _header(path: Path, needed: list[str]) -> tuple[int, dict[str, str]]:
    """Return the header's line and the type of each column by its name."""
    line, text = next(numbered_lines(path), (1, ""))
    columns = text.split("\t")
    types = {name: kind for name, _, kind in (column.rpartition(":") for column in columns)}
    if wrong := [c for c in columns if c.rpartition(":")[2] not in _PARSERS or c[0] == ":"]:
        raise DataError(
            f"{path}:{line}: {one_line(repr(wrong[0]))} is not a column of atomic files; write the header as "
            f"name:type with a type of {', '.join(_PARSERS)}"
        )
    if len(types) != len(columns):
        raise DataError(f"{path}:{line}: a column is there twice; rename one")
    check_columns(f"{path}:{line}", list(types), needed)
    return line, types


def _items(path: Path, report: Report) -> Iterator[RawItem]:
    header, types = _header(path, ["item_id"])
    parsers = {name: _parser(name, kind) for name, kind in types.items()}
    for line, text in numbered_lines(path):
        if line == header:
            continue
        fields = text.split("\t")
        if len(fields) != len(types):
            reason = f"{len(fields)} fields where the header has {len(types)}"
            report.drop("items", "malformed row", path.name, line, reason)
            continue
        row = dict(zip(types, fields, strict=True))
        item_id = row.pop("item_id")
        try:
            attributes = {name: parsers[name](field) for name, field in row.items() if field}
        except ValueError as error:
            report.drop("items", "malformed row", path.name, line, str(error))
            continue
        yield RawItem(line, item_id, attributes)


def _parser(name: str, kind: str) -> Callable[[str], Any]:
    if kind == "token_seq" and any(word in name.lower() for word in TEXT_NAMES):
        return str
    return _PARSERS[kind]


def _floats(field: str) -> list[float]:
    return [float(part) for part in field.split(" ") if part]


def _tokens(field: str) -> list[str]:
    return [part for part in field.split(" ") if part]


_PARSERS: dict[str, Callable[[str], Any]] = {
    "token": str,
    "token_seq": _tokens,
    "float": float,
    "float_seq": _floats,
}


def _interactions(path: Path, report: Report) -> Iterator[pl.DataFrame]:
    line, types = _header(path, ["user_id", "item_id"])
    timestamp = "timestamp" if "timestamp" in types else None
    columns = {"user": "user_id", "item": "item_id", "timestamp": timestamp}
    for frame in line_frames(path, after=line):
        yield split_fields(frame, "\t", list(types), columns, path.name, report)
