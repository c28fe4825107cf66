"""Parquet files: rows one by one for items, a polars frame for interactions; a line is a row's number."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.fs import FileSystem

from llmemb.errors import DataError
from trainer.data.raw import check_columns
from trainer.data.report import one_line


def parquet_items(
    path: Path | str, filesystem: FileSystem | None = None, groups: range | None = None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield each row, nulls left out.

    Args:
        path: of the file.
        filesystem: that the file is on; default: this machine's.
        groups: the row groups to read, one after another; default: all.

    Raises:
        DataError: the file is not Parquet or has no column ``id``.
    """
    for number, row in _rows(path, filesystem, groups):
        yield number, {name: value for name, value in row.items() if value is not None}


def _rows(
    path: Path | str, filesystem: FileSystem | None, groups: range | None
) -> Iterator[tuple[int, dict[str, Any]]]:
    with _reading(path), pq.ParquetFile(path, filesystem=filesystem) as file:
        check_columns(str(path), file.schema_arrow.names, ["id"])
        chosen = range(file.num_row_groups) if groups is None else groups
        number = sum(file.metadata.row_group(i).num_rows for i in range(chosen.start))
        for batch in file.iter_batches(row_groups=list(chosen)):
            batch.validate(full=True)
            for row in batch.to_pylist():
                number += 1
                yield number, row


def row_group_sizes(path: str, filesystem: FileSystem) -> list[int]:
    """Return the number of rows of each row group of a file of items.

    Raises:
        DataError: the file is not Parquet or has no column ``id``.
    """
    with _reading(path), pq.ParquetFile(path, filesystem=filesystem) as file:
        check_columns(path, file.schema_arrow.names, ["id"])
        return [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]


def parquet_interactions(path: Path) -> Iterator[pl.DataFrame]:
    """Yield one frame with ``line``, ``user``, ``item`` and ``timestamp``.

    Raises:
        DataError: the file is not Parquet, lacks a column or has one of an unusable type.
    """
    with _reading(path), pq.ParquetFile(path) as file:
        there = file.schema_arrow.names
        check_columns(str(path), there, ["user", "item"])
        columns = [name for name in ("user", "item", "timestamp") if name in there]
        table = file.read(columns=columns)
        table.validate(full=True)  # polars takes it on trust that text is UTF-8
        frame = pl.DataFrame({name: pl.Series(name, table[name]) for name in columns})
    yield frame.select(
        _text_id(path, frame, "user"), _text_id(path, frame, "item"), _timestamp(path, frame)
    ).with_row_index("line", offset=1)


@contextmanager
def _reading(path: Path | str) -> Iterator[None]:
    # pyarrow rather than polars, which panics, with a trace on the terminal, over a damaged file
    try:
        yield
    except (pa.ArrowException, pl.exceptions.PolarsError, OSError, ValueError) as error:
        raise DataError(
            f"{path}: not a Parquet file that can be read ({one_line(str(error))}); write it again"
        ) from error


def _text_id(path: Path, frame: pl.DataFrame, name: str) -> pl.Expr:
    kind = frame.schema[name]
    if not (kind.is_integer() or kind in (pl.String, pl.Categorical, pl.Enum, pl.Null)):
        shown = one_line(str(kind))
        raise DataError(f"{path}: column {name} is {shown}; write it as text or whole numbers")
    return pl.col(name).cast(pl.String)


def _timestamp(path: Path, frame: pl.DataFrame) -> pl.Expr:
    if "timestamp" not in frame.columns:
        return pl.lit(None, pl.String).alias("timestamp")
    kind = frame.schema["timestamp"]
    if not (kind.is_numeric() or kind in (pl.String, pl.Datetime, pl.Date, pl.Null)):
        shown = one_line(str(kind))
        raise DataError(f"{path}: column timestamp is {shown}; write it as numbers or dates")
    return pl.col("timestamp")
