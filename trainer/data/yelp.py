"""Source ``yelp``: businesses and reviews of the Yelp Open Dataset, JSON lines."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from trainer.data.json_lines import json_interactions, json_items
from trainer.data.python_literals import parse_literal
from trainer.data.raw import RawData, RawItem, find_file
from trainer.data.report import Report

BUSINESSES = "yelp_academic_dataset_business.json"
REVIEWS = "yelp_academic_dataset_review.json"
LAYOUT = f"{BUSINESSES} beside {REVIEWS}, plain or .gz"

_REVIEW = {"user": "user_id", "item": "business_id", "timestamp": "date"}
_WITH_COMMAS = (
    "Beer, Wine & Spirits",
    "Books, Mags, Music & Video",
    "Used, Vintage & Consignment",
    "Wills, Trusts, & Probates",
)  # the categories whose own name holds what stands between two others
_CATEGORY = re.compile(rf" *({'|'.join(map(re.escape, _WITH_COMMAS))}|[^,]+)(?:,|$)")


def read_yelp(raw: Path, report: Report) -> RawData:
    """Read the businesses and the reviews; users, check-ins, tips and photos are not used.

    A review counts whatever its stars. Its ``date``, ``2018-07-07 22:09:11``, or the day alone in
    releases before 2018, becomes Unix seconds.

    Raises:
        DataError: a file is missing, there twice, or lacks a key in every row.
    """
    businesses = find_file(raw, [BUSINESSES, f"{BUSINESSES}.gz"], LAYOUT)
    reviews = find_file(raw, [REVIEWS, f"{REVIEWS}.gz"], LAYOUT)
    return RawData(
        domain="business",
        items_file=businesses,
        items=_businesses(businesses, report),
        interactions_file=reviews,
        interactions=_reviews(reviews, report),
    )


def business(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a business' attributes: name, place, categories, and each of Yelp's own ``attributes``.

    The values of those are Python literals in text: ``"True"``, ``"u'free'"``, ``"None"``, or flags,
    ``"{'garage': False, 'lot': True}"``, which become the list of those that hold. Releases before
    2018 have some as bare words.

    Left out are popularity (``stars``, ``review_count``), the id and the coordinates, ``hours``, and
    ``is_open``, which tells on the day of the release what became of the business later.

    >>> business({"name": "Zora", "attributes": {"WiFi": "u'free'"}, "categories": "Salad, Food"})
    {'name': 'Zora', 'categories': ['Salad', 'Food'], 'WiFi': 'free'}

    Raises:
        ValueError: ``attributes`` or ``categories`` is of a type that no release has.
    """
    attributes = row.get("attributes") or {}
    if not isinstance(attributes, dict):
        raise ValueError(f"attributes is of type {type(attributes).__name__}, not an object")
    own = {name: row.get(name) for name in ("name", "address", "city", "state", "postal_code")}
    own["categories"] = _categories(row.get("categories"))
    of_yelp = {name: _value(given) for name, given in attributes.items() if name not in own}
    return {
        name: value for name, value in {**own, **of_yelp}.items() if value not in ("", None, [])
    }


def _categories(given: Any) -> list[str]:
    if given is None:
        return []
    if isinstance(given, list) and all(isinstance(name, str) for name in given):
        return given  # releases before 2018
    if not isinstance(given, str):
        raise ValueError(f"categories is of type {type(given).__name__}, not text")
    names = (name.strip() for name in _CATEGORY.findall(given))
    return [name for name in names if name]


def _value(given: Any) -> Any:
    value = given
    if isinstance(given, str):
        try:
            value = parse_literal(given)
        except ValueError:
            return given
    if isinstance(value, dict) and all(flag in (True, False, None) for flag in value.values()):
        return [name for name, flag in value.items() if flag]
    return value if isinstance(value, str | int | float | dict | None) else given


def _businesses(path: Path, report: Report) -> Iterator[RawItem]:
    for line, row in json_items(path, report, "business_id"):
        try:
            attributes = business(row)
        except ValueError as error:
            report.drop("items", "malformed row", path.name, line, str(error))
            continue
        yield RawItem(line, row["business_id"], attributes)


def _reviews(path: Path, report: Report) -> Iterator[pl.DataFrame]:
    for frame in json_interactions(path, report, _REVIEW):
        given = frame["timestamp"]
        times = given.str.to_datetime("%Y-%m-%d %H:%M:%S", strict=False)
        days = given.str.to_datetime("%Y-%m-%d", strict=False)
        seconds = times.zip_with(times.is_not_null(), days).dt.epoch("s")
        yield report.drop_interactions(
            frame.with_columns(seconds.alias("timestamp"), given.alias("date")),
            seconds.is_null() & given.is_not_null(),
            "bad timestamp",
            path.name,
            lambda row: f"date {row['date']!r} is not a time such as 2018-07-07 22:09:11",
        ).drop("date")
