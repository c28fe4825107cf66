"""What makes a raw interaction unusable, whatever its source; the rest become users' sequences."""

from typing import Any

import polars as pl

from llmemb.errors import DataError
from llmemb.interactions import MIN_EVALUATED
from trainer.data.item_checks import CheckedItems
from trainer.data.raw import RawData
from trainer.data.report import FIRST_PLACES, Place, Report

_MISSING_TIME = "no timestamp, where other rows have one"


def check_interactions(raw: RawData, items: CheckedItems, report: Report) -> pl.DataFrame:
    """Build the interactions user by user, users in order of first appearance, oldest first.

    Rows with equal timestamps, or all rows where there are none, keep the order of the file.

    Returns:
        Columns ``user``, ``item`` (string), ``timestamp`` (int64), ``index`` (uint32: the item's
        position in the catalogue) and ``line``. A fraction of a timestamp counts for the order and
        is then cut off.

    Raises:
        DataError: no interaction is left, or no user has ``MIN_EVALUATED``.
    """
    file = raw.interactions_file.name
    blocks = list(raw.interactions)
    if not blocks:
        raise DataError(_nothing_left(raw, report))
    frame = pl.concat(blocks)
    del blocks
    empty = frame["user"].fill_null("").eq("") | frame["item"].fill_null("").eq("")
    frame = report.drop_interactions(frame, empty, "empty user or item", file, _empty_reason)
    frame = _with_times(frame, file, report)
    frame = _with_known_items(frame, items, file, report)
    if frame.is_empty():
        raise DataError(_nothing_left(raw, report))
    frame = _without_duplicates(_ordered(frame), file, report)
    _note_short_users(raw, frame, report)
    _note_untouched_items(raw, frame, items, report)
    return frame.with_columns(pl.col("timestamp").floor().cast(pl.Int64)).drop("first")


def _empty_reason(row: dict[str, Any]) -> str:
    return f"no {'item' if row['user'] else 'user'}"


def _with_times(frame: pl.DataFrame, file: str, report: Report) -> pl.DataFrame:
    """Replace ``timestamp`` by numbers; drop rows with a bad one, or the only ones without."""
    given = frame["timestamp"]
    times = parse_timestamps(given)
    missing = given.is_null()
    if given.dtype == pl.String:
        missing = missing | given.str.strip_chars().eq("").fill_null(True)
    bad = times.is_null() & ~missing
    kept = report.drop_interactions(frame, bad, "bad timestamp", file, _time_reason)
    missing = missing.filter(~bad)
    kept = kept.with_columns(times.filter(~bad).alias("timestamp"))
    if missing.all():
        place = Place(file, 1, "no timestamps; the order of the file is used")
        report.note("interactions", "missing timestamp", kept.height, [place])
        return kept
    return report.drop_interactions(kept, missing, "bad timestamp", file, lambda _: _MISSING_TIME)


def _time_reason(row: dict[str, Any]) -> str:
    return f"timestamp {row['timestamp']!r} is not a number, such as Unix seconds"


def parse_timestamps(given: pl.Series) -> pl.Series:
    """Return timestamps as numbers: int64, or float64 where one has a fraction; null where bad.

    Dates and times become the integer that stores them, in their own unit: only order matters.
    """
    if given.dtype.is_temporal():
        return given.to_physical().cast(pl.Int64)
    if given.dtype.is_integer():
        return given.cast(pl.Int64, strict=False)
    if given.dtype != pl.String:
        return _whole_where_all_are(given.cast(pl.Float64))
    text = given.str.strip_chars()
    whole = text.cast(pl.Int64, strict=False)
    if whole.null_count() == text.null_count():
        return whole
    number = _whole_where_all_are(text.cast(pl.Float64, strict=False))
    # a float64 cannot hold every int64, so what is spelled as a whole number stays one
    return whole.zip_with(whole.is_not_null(), number) if number.dtype == pl.Int64 else number


def _whole_where_all_are(numbers: pl.Series) -> pl.Series:
    usable = numbers.is_finite() & (numbers.abs() < 2.0**63)
    numbers = pl.select(pl.when(usable).then(numbers)).to_series()
    return numbers.cast(pl.Int64) if (numbers % 1 == 0).all() else numbers


def _with_known_items(
    frame: pl.DataFrame, items: CheckedItems, file: str, report: Report
) -> pl.DataFrame:
    known = pl.DataFrame({"item": items.catalogue.ids}).with_row_index("index")
    joined = frame.join(known, on="item", how="left", maintain_order="left")
    return report.drop_interactions(
        joined,
        joined["index"].is_null(),
        "unknown item",
        file,
        lambda row: f"item {row['item']!r} is not in the catalogue",
    )


def _ordered(frame: pl.DataFrame) -> pl.DataFrame:
    """Sort by user and time; ``first`` becomes the row in which the user first appears."""
    position = pl.int_range(pl.len(), dtype=pl.UInt32)
    return (
        frame.with_columns(position.alias("position"))
        .with_columns(pl.col("position").min().over("user").alias("first"))
        .sort("first", "timestamp", "position")
        .drop("position")
    )


def _without_duplicates(ordered: pl.DataFrame, file: str, report: Report) -> pl.DataFrame:
    if ordered["timestamp"].null_count():
        return ordered  # without times, the same item again is another interaction
    repeated = ordered.select(~pl.struct("first", "timestamp", "index").is_first_distinct())
    return report.drop_interactions(
        ordered,
        repeated.to_series(),
        "duplicate interaction",
        file,
        lambda row: f"user {row['user']!r} with item {row['item']!r} at that time is there already",
    )


def _note_short_users(raw: RawData, ordered: pl.DataFrame, report: Report) -> None:
    users = ordered.group_by("first", maintain_order=True).agg(
        pl.col("user").first(), pl.col("line").min(), pl.len().alias("count")
    )
    short = users.filter(pl.col("count") < MIN_EVALUATED)
    if short.height == users.height:
        dropped = f" ({report.summary()})" if report.summary() else ""
        raise DataError(
            f"{raw.interactions_file}: no user has {MIN_EVALUATED} interactions; add some: "
            f"leave-one-out needs one to train on, one to validate and one to test{dropped}"
        )
    places = (
        Place(raw.interactions_file.name, row["line"], f"user {row['user']!r} has {row['count']}")
        for row in short.head(FIRST_PLACES).iter_rows(named=True)
    )
    kind = f"user with fewer than {MIN_EVALUATED} interactions (trained on, not evaluated)"
    report.note("interactions", kind, short.height, places)


def _note_untouched_items(
    raw: RawData, ordered: pl.DataFrame, items: CheckedItems, report: Report
) -> None:
    touched = set(ordered["index"].unique().to_list())
    untouched = [i for i in range(len(items.catalogue)) if i not in touched]
    places = (
        Place(raw.items_file.name, items.lines[i], f"item {items.catalogue.ids[i]!r}")
        for i in untouched[:FIRST_PLACES]
    )
    report.note("items", "item never interacted with", len(untouched), places)


def _nothing_left(raw: RawData, report: Report) -> str:
    if problem := next(iter(report.dropped("interactions")), None):
        return (
            f"{raw.interactions_file}:{problem.first[0].line}: no interactions are left of "
            f"{report.read('interactions'):,} rows; mend the rows ({report.summary()})"
        )
    return f"{raw.interactions_file}:1: no interactions in the file; write one a row"
