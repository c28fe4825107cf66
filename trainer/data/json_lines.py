"""JSON Lines: objects one by one for items, in polars frames for interactions."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from llmemb.errors import DataError
from trainer.data.lines import line_frames, numbered_lines
from trainer.data.report import Report, one_line

Parse = Callable[[str], dict[str, Any]]
"""A line to its object; raises ValueError where the line is none."""

KEYS = {"user": "user", "item": "item", "timestamp": "timestamp"}


def parse_object(text: str) -> dict[str, Any]:
    """Parse a JSON object, strictly: no key twice, nothing behind it.

    Raises:
        ValueError: the text is something else; the message says what.
    """
    try:
        value = json.loads(text, object_pairs_hook=_object)
    except RecursionError:
        raise ValueError("nested too deep") from None
    if not isinstance(value, dict):
        raise ValueError(f"a JSON {_json_type(value)} where an object is expected")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"key {twice!r} is there twice")
    return value


def _json_type(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    kinds = {str: "string", int: "number", float: "number", list: "array", dict: "object"}
    return kinds.get(type(value), "null")


def json_items(
    path: Path, report: Report, key: str = "id", parse: Parse = parse_object
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield each line's object, which has its id under ``key``; others are dropped.

    Raises:
        DataError: no object at all has the key.
    """
    found, lacking = False, None
    for line, text in numbered_lines(path):
        try:
            row = parse(text)
        except ValueError as error:
            report.drop("items", "malformed row", path.name, line, f"not an item: {error}")
            continue
        if key in row:
            found = True
            yield line, row
        else:
            lacking = lacking or (line, list(row))
            report.drop("items", "item without an id", path.name, line, f'no key "{key}"')
    if lacking and not found:
        raise DataError(_no_key(path, *lacking, key))


def json_interactions(
    path: Path, report: Report, keys: Mapping[str, str] = KEYS
) -> Iterator[pl.DataFrame]:
    """Yield frames with ``line``, ``user``, ``item`` and ``timestamp``, all text but the first.

    ``keys`` names the file's key for each of the three.

    Raises:
        DataError: no object at all has the user's key, or none the item's.
    """
    missing = {"user", "item"}
    for frame in line_frames(path):
        text = pl.col("text").str
        parsed = frame.with_columns(
            text.json_path_match(f"$.{theirs}").alias(ours) for ours, theirs in keys.items()
        )
        missing -= {name for name in missing if parsed[name].is_not_null().any()}
        yield _without_malformed(parsed, keys, path.name, report).drop("text")
    if missing:
        _check_keys(path, [keys[name] for name in sorted(missing, reverse=True)])


def _without_malformed(
    parsed: pl.DataFrame, keys: Mapping[str, str], file: str, report: Report
) -> pl.DataFrame:
    # A null is all that polars says of a line it cannot parse, and an array comes as its text, so
    # the few such lines are looked at again.
    doubtful = pl.any_horizontal(
        pl.col(name).is_null() | pl.col(name).str.contains(r"^(\[|\{|true$|false$)")
        for name in ("user", "item")
    )
    faults: dict[int, str] = {}
    for row in parsed.filter(doubtful).iter_rows(named=True):
        if fault := _fault(row, keys):
            faults[row["line"]] = fault
    if not faults:
        return parsed
    bad = parsed["line"].is_in(list(faults))
    return report.drop_interactions(
        parsed, bad, "malformed row", file, lambda row: faults[row["line"]]
    )


def _fault(row: dict[str, Any], keys: Mapping[str, str]) -> str | None:
    try:
        value = parse_object(row["text"])
    except ValueError as error:
        return f"not an interaction: {error}"
    for name in ("user", "item"):
        given = value.get(keys[name])
        if isinstance(given, bool | list | dict):
            return f"{keys[name]} is a JSON {_json_type(given)}, not a string or a number"
        if row[name] is None and given not in (None, ""):
            return "not valid JSON: a NaN, a number out of range or half a character"
    return None


def _check_keys(path: Path, names: list[str]) -> None:
    for line, text in numbered_lines(path):
        try:
            keys = list(parse_object(text))
        except ValueError:
            continue
        if lacking := [name for name in names if name not in keys]:
            raise DataError(_no_key(path, line, keys, " and no ".join(lacking)))
        return


def _no_key(path: Path, line: int, keys: list[str], lacking: str) -> str:
    found = one_line(", ".join(keys) or "none")
    return (
        f"{path}:{line}: no {lacking} in any row; the keys found are {found}; rename the right one"
    )
