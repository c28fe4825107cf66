"""Source ``files``: the user's own catalogue and interaction log in plain layouts."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from trainer.data.csv_tables import csv_header, csv_interactions, csv_rows
from trainer.data.json_lines import json_interactions, json_items, parse_object
from trainer.data.lines import line_frames
from trainer.data.parquet_tables import parquet_interactions, parquet_items
from trainer.data.raw import RawData, RawItem, check_columns, find_file
from trainer.data.report import Report

ITEM_FILES = ["items.jsonl", "items.csv", "items.parquet"]
INTERACTION_FILES = [
    "interactions.jsonl",
    "interactions.csv",
    "interactions.parquet",
    "sequences.txt",
]
LAYOUTS = (
    "items.jsonl, items.csv or items.parquet (id and any attributes) beside interactions.jsonl, "
    "interactions.csv or interactions.parquet (user, item, timestamp) or sequences.txt "
    "(a line a user: user item item ..., oldest first)"
)


def read_files(raw: Path, report: Report) -> RawData:
    """Read ``items.*`` and ``interactions.*`` or ``sequences.txt``.

    An item has an ``id``; its other keys or columns are its attributes. Where the only other one is
    ``attributes``, the attributes are inside it: as an object, or in a CSV or Parquet column as
    JSON text, which is how prepared data keeps them.

    Raises:
        DataError: a file is missing, there twice, or lacks a column.
    """
    items = find_file(raw, ITEM_FILES, LAYOUTS)
    interactions = find_file(raw, INTERACTION_FILES, LAYOUTS)
    return RawData(
        domain="item",
        items_file=items,
        items=item_rows(items, report),
        interactions_file=interactions,
        interactions=_interactions(interactions, report),
    )


def item_rows(path: Path, report: Report) -> Iterator[RawItem]:
    """Yield the items of a ``.jsonl``, ``.csv`` or ``.parquet`` file; rows that are none are counted.

    Raises:
        DataError: the file cannot be read, or has no ids.
    """
    if path.suffix == ".jsonl":
        for line, row in json_items(path, report):
            yield _item(line, row)
        return
    rows = _csv_items(path, report) if path.suffix == ".csv" else parquet_items(path)
    yield from table_items(rows, path.name, report)


def table_items(
    rows: Iterable[tuple[int, dict[str, Any]]], file: str, report: Report
) -> Iterator[RawItem]:
    """Yield the items of a table's numbered rows; rows that are none are counted as those of ``file``."""
    for line, row in rows:
        try:
            yield _item(line, _with_parsed_attributes(row))
        except ValueError as error:
            reason = f"attributes is not a JSON object: {error}"
            report.drop("items", "malformed row", file, line, reason)


def _item(line: int, row: dict[str, Any]) -> RawItem:
    item_id = row.pop("id", None)
    if row.keys() == {"attributes"} and isinstance(row["attributes"], Mapping):
        return RawItem(line, item_id, dict(row["attributes"]))
    return RawItem(line, item_id, row)


def _with_parsed_attributes(row: dict[str, Any]) -> dict[str, Any]:
    text = row.get("attributes")
    if row.keys() - {"id"} == {"attributes"} and isinstance(text, str):
        return {**row, "attributes": parse_object(text)}
    return row


def _csv_items(path: Path, report: Report) -> Iterator[tuple[int, dict[str, Any]]]:
    line, header = csv_header(path)
    check_columns(f"{path}:{line}", header, ["id"])
    for line, row in csv_rows(path, "items", report):
        cells = zip(header, row, strict=True)
        yield line, {name: cell for name, cell in cells if cell or name == "id"}


def _interactions(path: Path, report: Report) -> Iterator[pl.DataFrame]:
    match path.suffix:
        case ".jsonl":
            return json_interactions(path, report)
        case ".parquet":
            return parquet_interactions(path)
        case ".csv":
            line, header = csv_header(path)
            check_columns(f"{path}:{line}", header, ["user", "item"])
            timestamp = "timestamp" if "timestamp" in header else None
            columns = {"user": "user", "item": "item", "timestamp": timestamp}
            return csv_interactions(path, columns, report)
        case _:
            return _sequences(path, report)


def _sequences(path: Path, report: Report) -> Iterator[pl.DataFrame]:
    """Yield the interactions of ``sequences.txt``; a user's second line goes on where the first ended."""
    for frame in line_frames(path):
        words = frame.select("line", pl.col("text").str.extract_all(r"[^ \t]+").alias("words"))
        words = report.drop_interactions(
            words,
            words["words"].list.len() < 2,
            "malformed row",
            path.name,
            lambda row: f"user {row['words'][0]!r} without items",
        )
        yield words.select(
            "line",
            pl.col("words").list.first().alias("user"),
            pl.col("words").list.slice(1).alias("item"),
            pl.lit(None, pl.String).alias("timestamp"),
        ).explode("item")
