"""CSV files: rows one by one for items, in polars frames for interactions."""

import csv
import io
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import polars as pl

from llmemb.errors import DataError
from trainer.data.lines import BLANK, BLOCK_BYTES, blocks, line_frames, open_raw, split_fields
from trainer.data.raw import Columns
from trainer.data.report import Report, Rows, one_line

BATCH_ROWS = 100_000  # that go from the CSV parser into a frame at once


def csv_header(path: Path) -> tuple[int, list[str]]:
    """Return the line the header ends on and the column names.

    Raises:
        DataError: the file is empty or two columns have one name.
    """
    for start, row in _records(path):
        if isinstance(row, csv.Error):
            raise DataError(f"{path}:{start}: {row}; mend the header")
        if twice := next((name for name in row if row.count(name) > 1), None):
            raise DataError(
                f"{path}:{start}: column {one_line(repr(twice))} is there twice; rename one"
            )
        return start + sum(name.count("\n") for name in row), row
    raise DataError(f"{path}:1: the file is empty; it needs a header with the column names")


def csv_rows(path: Path, rows: Rows, report: Report) -> Iterator[tuple[int, list[str]]]:
    """Yield each row behind the header with the line it starts on; malformed rows are dropped."""
    after, header = csv_header(path)
    for line, row in _records(path):
        if line <= after:
            continue
        if isinstance(row, csv.Error):
            report.drop(rows, "malformed row", path.name, line, str(row))
        elif len(row) != len(header):
            reason = f"{len(row)} fields where the header has {len(header)}"
            report.drop(rows, "malformed row", path.name, line, reason)
        else:
            yield line, row


def csv_interactions(path: Path, columns: Columns, report: Report) -> Iterator[pl.DataFrame]:
    """Yield frames with ``line``, ``user``, ``item`` and ``timestamp``, all text but the first."""
    after, header = csv_header(path)
    if _has_quotes(path):
        yield from _quoted_frames(path, header, columns, report)
        return
    for frame in line_frames(path, after):
        yield split_fields(frame, ",", header, columns, path.name, report)


def _quoted_frames(
    path: Path, header: list[str], columns: Columns, report: Report
) -> Iterator[pl.DataFrame]:
    # Quoted fields may hold commas and line ends. Python's parser, written in C, is slower than
    # polars' but tells the line of a row and what is wrong with it.
    schema = {"line": pl.UInt32, **dict.fromkeys(columns, pl.String)}
    places = {ours: header.index(theirs) for ours, theirs in columns.items() if theirs is not None}
    rows = csv_rows(path, "interactions", report)
    while batch := list(islice(rows, BATCH_ROWS)):
        values = {ours: [row[place] for _, row in batch] for ours, place in places.items()}
        absent = {ours: [None] * len(batch) for ours in columns if ours not in places}
        lines = [line for line, _ in batch]
        yield pl.DataFrame({"line": lines, **values, **absent}, schema=schema)


def _has_quotes(path: Path) -> bool:
    with open_raw(path) as file:
        return any(b'"' in block for block in iter(lambda: file.read(BLOCK_BYTES), b""))


def _records(path: Path) -> Iterator[tuple[int, list[str] | csv.Error]]:
    """Yield each row, or what is wrong with it, with the line it starts on."""
    csv.field_size_limit(2**31 - 1)  # how long a value may be is for the item checks to say
    reader = csv.reader(_physical_lines(path), strict=True)
    while True:
        start = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if str(error) == "unexpected end of data":
                raise DataError(
                    f"{path}:{start}: a quoted field that starts here is never closed; "
                    'close it with "'
                ) from error
            yield start, error
        else:
            if len(row) > 1 or (row and row[0].strip(BLANK)):
                yield start, row


def _physical_lines(path: Path) -> Iterator[str]:
    for _, text in blocks(path):
        yield from io.StringIO(text, newline="\n")
