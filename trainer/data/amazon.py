"""Source ``amazon``: a category of the Amazon product data of 2014, 2018 or 2023, plain or gzip.

Files and columns live here; what becomes of a product's fields is :mod:`trainer.data.amazon_products`.
"""

import re
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import polars as pl

from llmemb.errors import DataError
from trainer.data.amazon_products import product
from trainer.data.csv_tables import csv_interactions
from trainer.data.json_lines import Parse, json_interactions, json_items, parse_object
from trainer.data.lines import line_frames, numbered_lines, split_fields
from trainer.data.python_literals import parse_literal_object
from trainer.data.raw import Columns, RawData, RawItem, check_columns
from trainer.data.report import Place, Report, one_line

LAYOUTS = (
    "a category's metadata (meta_*.json of 2014 and 2018, meta_*.jsonl of 2023) beside its reviews "
    "(*.json, *.jsonl) or ratings (*.csv), each plain or .gz"
)
SNIFFED_LINES = 1000  # of the metadata, until one tells the release
UNREVIEWED = "item without a review"

_DATA_FILE = re.compile(r"[^.].*\.(json|jsonl|csv)(\.gz)?")


@dataclass(frozen=True)
class _Release:
    """What tells a release from the others and how it spells an interaction.

    Attributes:
        telling: keys of the metadata that the releases behind it in the list do not have.
        item: the metadata's key for the id.
        review: a review's key for each of ``user``, ``item`` and ``timestamp``.
        rating: the fields of a line of the ratings without a header.
    """

    telling: frozenset[str]
    item: str
    review: dict[str, str]
    rating: tuple[str, ...]


_REVIEW = {"user": "reviewerID", "item": "asin", "timestamp": "unixReviewTime"}
_RELEASES = (
    _Release(  # 2023, amazon-reviews-2023.github.io; variants of a product share a parent_asin
        frozenset({"parent_asin"}),
        "parent_asin",
        {"user": "user_id", "item": "parent_asin", "timestamp": "timestamp"},
        ("user", "item", "rating", "timestamp"),
    ),
    _Release(  # 2018, nijianmo.github.io/amazon: "(item,user,rating,timestamp) tuples"
        frozenset({"category", "also_buy", "also_view", "rank", "feature", "main_cat"}),
        "asin",
        _REVIEW,
        ("item", "user", "rating", "timestamp"),
    ),
    _Release(  # 2014, jmcauley.ucsd.edu/data/amazon: "(user,item,rating,timestamp) tuples"
        frozenset({"categories", "salesRank", "related", "imUrl"}),
        "asin",
        _REVIEW,
        ("user", "item", "rating", "timestamp"),
    ),
)


def read_amazon(raw: Path, report: Report) -> RawData:
    """Read one metadata file and one file of reviews or ratings; the metadata tells the release.

    - 2014: metadata in Python literals, a dictionary a line (``asin``), which are parsed, never run;
      reviews as JSON lines (``reviewerID``, ``asin``, ``unixReviewTime``) or ratings as CSV without
      a header, user first.
    - 2018: metadata as JSON lines; reviews as in 2014, ratings as CSV with the *item* first.
    - 2023: metadata and reviews as JSON lines (``user_id``, ``parent_asin``, ``timestamp``), or
      ratings as CSV of 0-core or 5-core, with a header or without, user first. An item is a
      ``parent_asin``.

    Timestamps stay in the release's unit, seconds until 2018 and milliseconds in 2023. Every review
    counts, whatever its stars. Only products with a review become items: the metadata of a category
    holds millions without. Of a product that is there again, as in 2018, the first row counts.

    Raises:
        DataError: a file is missing or one of several, its layout is none of these, or no product
            has a review.
    """
    metadata, log = _find_files(raw)
    release, parse = _release_of(metadata)
    blocks = list(_interactions(log, release, report))
    reviewed = {item for block in blocks for item in block["item"].unique()}
    return RawData(
        domain="product",
        items_file=metadata,
        items=_products(metadata, release, parse, reviewed, log, report),
        interactions_file=log,
        interactions=iter(blocks),
    )


def _find_files(raw: Path) -> tuple[Path, Path]:
    files = [path for path in sorted(raw.iterdir()) if _DATA_FILE.fullmatch(path.name)]
    metadata = [path for path in files if path.name.startswith("meta_") and path.is_file()]
    logs = [path for path in files if path not in metadata and path.is_file()]
    return _only(raw, metadata, "metadata"), _only(raw, logs, "reviews or ratings")


def _only(raw: Path, files: Sequence[Path], what: str) -> Path:
    if not files:
        raise DataError(f"{raw}: no file of {what} is there; expected {LAYOUTS}")
    if len(files) > 1:
        names = one_line(", ".join(path.name for path in files))
        raise DataError(
            f"{raw}: more than one file of {what} ({names}); keep the one to read, move the others"
        )
    return files[0]


def _release_of(metadata: Path) -> tuple[_Release, Parse]:
    """Return the release and what parses a line of its metadata."""
    for _, text in islice(numbered_lines(metadata), SNIFFED_LINES):
        for parse in (parse_object, parse_literal_object):
            try:
                keys = parse(text).keys()
            except ValueError:
                continue
            for release in _RELEASES:
                if keys & release.telling:
                    return release, parse
    keys_known = "; ".join(", ".join(sorted(release.telling)) for release in _RELEASES)
    raise DataError(
        f"{metadata}:1: not metadata of Amazon products: none of its first {SNIFFED_LINES:,} lines is "
        f"an object with a key of 2023, 2018 or 2014 ({keys_known}); expected {LAYOUTS}"
    )


def _interactions(log: Path, release: _Release, report: Report) -> Iterator[pl.DataFrame]:
    if not log.name.removesuffix(".gz").endswith(".csv"):
        return json_interactions(log, report, release.review)
    line, text = next(numbered_lines(log), (1, ""))
    header = text.split(",")
    if release.review["item"] in header:
        check_columns(f"{log}:{line}", header, list(release.review.values()))
        return csv_interactions(log, release.review, report)
    return _ratings(log, release.rating, report)


def _ratings(log: Path, fields: Sequence[str], report: Report) -> Iterator[pl.DataFrame]:
    columns: Columns = {name: name for name in ("user", "item", "timestamp")}
    for frame in line_frames(log):
        yield split_fields(frame, ",", fields, columns, log.name, report)


def _products(
    metadata: Path,
    release: _Release,
    parse: Parse,
    reviewed: Set[str],
    log: Path,
    report: Report,
) -> Iterator[RawItem]:
    file, lines, found = metadata.name, dict[str, int](), False
    for line, row in json_items(metadata, report, release.item, parse):
        item = row[release.item]
        if type(item) is int:
            item = str(item)
        if not isinstance(item, str):
            yield RawItem(line, item, {})  # the checks say what is wrong with it
        elif item not in reviewed:
            reason = f"item {item!r} has no review"
            report.drop("items", UNREVIEWED, file, line, reason, by_rule=True)
        elif item in lines:
            reason = f"item {item!r} is on line {lines[item]} already"
            report.drop("items", "duplicate item", file, line, reason)
        else:
            found = True
            try:
                attributes, unreadable = product(row)
            except ValueError as error:
                report.drop("items", "malformed row", file, line, str(error))
                continue
            lines[item] = line
            places = [Place(file, line, one_line(reason)) for reason in unreadable]
            report.note("items", "unreadable attribute (left out)", len(places), places)
            yield RawItem(line, item, attributes)
    if not found and ("items", UNREVIEWED) in report.problems:
        raise DataError(
            f"{metadata}: none of its products is in {log.name}; put the metadata and the reviews of "
            "one category and one release there"
        )
