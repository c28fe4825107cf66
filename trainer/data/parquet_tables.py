"""Parquet files: rows one by one for items, a polars frame for interactions; a line is a row's number."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl

from llmemb.errors import DataError
from trainer.data.report import one_line


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise DataError(
            f"{path}: not a Parquet file that can be read ({one_line(str(error))}); write it again"
        ) from error


def parquet_items(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield each row, nulls left out.

    Raises:
        DataError: the file is not Parquet or has no usable column ``id``.
    """
    with _reading(path):
        frame = pl.read_parquet(path)
    frame = frame.with_columns(_text_id(path, frame.schema, "id"))
    for number, row in enumerate(frame.iter_rows(named=True), 1):
        yield number, {name: value for name, value in row.items() if value is not None}


def parquet_interactions(path: Path) -> Iterator[pl.DataFrame]:
    """Yield one frame with ``line``, ``user``, ``item`` and ``timestamp``.

    Raises:
        DataError: the file is not Parquet, lacks a column or has one of an unusable type.
    """
    with _reading(path):
        schema = pl.read_parquet_schema(path)
    columns = [_text_id(path, schema, "user"), _text_id(path, schema, "item")]
    columns.append(_timestamp(path, schema))
    with _reading(path):
        frame = pl.read_parquet(path, columns=[c for c in schema if c in _INTERACTION_COLUMNS])
    yield frame.select(columns).with_row_index("line", offset=1)


_INTERACTION_COLUMNS = ("user", "item", "timestamp")


def _text_id(path: Path, schema: Any, name: str) -> pl.Expr:
    if name not in schema:
        found = ", ".join(schema)
        raise DataError(f"{path}: no column {name}; the columns are {found}; rename the right one")
    kind = schema[name]
    if not (kind.is_integer() or kind in (pl.String, pl.Categorical, pl.Enum, pl.Null)):
        raise DataError(f"{path}: column {name} is {kind}; write it as text or whole numbers")
    return pl.col(name).cast(pl.String)


def _timestamp(path: Path, schema: Any) -> pl.Expr:
    if "timestamp" not in schema:
        return pl.lit(None, pl.String).alias("timestamp")
    kind = schema["timestamp"]
    if not (kind.is_numeric() or kind in (pl.String, pl.Datetime, pl.Date, pl.Null)):
        raise DataError(f"{path}: column timestamp is {kind}; write it as numbers or dates")
    return pl.col("timestamp")
