"""The ``amazon`` source: three releases of one category, plain or gzip, oddities included."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from llmemb.catalogue import Catalogue
from llmemb.interactions import read_sequences
from trainer.data.prepare import prepare
from trainer.data.python_literals import LITERAL_CHARS
from trainer.data.report import Report

LIPSTICK = {
    "title": 'Lip & Cheek 1/4"',
    "brand": "OPI",
    "categories": ["Beauty", "Makeup", "Lips", "Cheeks"],
    "price": 7.86,
    "description": "Warm. Red.",
}
SOAP = {"title": "Soap's up", "categories": ["Beauty"]}
REVIEWS = [("U1", "B1", 30), ("U1", "B2", 10), ("U1", "B1", 20), ("U2", "B2", 5)]
SEQUENCES = [[1, 0, 0], [1]]

META_2014 = [
    {
        "asin": "B1",
        "title": 'Lip &amp; Cheek 1/4"',
        "price": 7.86,
        "brand": "OPI",
        "imUrl": "http://ecx.images-amazon.com/images/I/41.jpg",
        "salesRank": {"Beauty": 1052},
        "related": {"also_bought": ["B2"]},
        "categories": [["Beauty", "Makeup", "Lips"], ["Beauty", "Makeup", "Cheeks"]],
        "description": "Warm. Red.",
    },
    {"asin": "B2", "title": "Soap's up", "brand": "Unknown", "categories": [["Beauty"]]},
    {"asin": "B9", "title": "Never reviewed"},
]
META_2018 = [
    {
        "category": ["Beauty", "Makeup", "Lips", "Cheeks", "</span></span></span>"],
        "tech1": "",
        "description": ["Warm.<br />", "", "<b>Red.</b>"],
        "fit": "",
        "title": "Lip &amp; Cheek 1/4&quot;",
        "also_buy": ["B2"],
        "image": ["https://images-na.ssl-images-amazon.com/images/I/41.jpg"],
        "brand": "OPI",
        "feature": [],
        "rank": "190,234 in Beauty &amp; Personal Care (",
        "also_view": [],
        "main_cat": '<img src="https://images-na.ssl-images-amazon.com/logo.png" alt="Beauty"/>',
        "similar_item": "",
        "date": "",
        "price": "$7.86",
        "asin": "B1",
    },
    {"asin": "B2", "title": "Soap's up", "category": ["Beauty"], "price": "", "brand": None},
    {"asin": "B9", "title": "Never reviewed"},
]
META_2023 = [
    {
        "main_category": "Beauty",
        "title": 'Lip & Cheek 1/4"',
        "average_rating": 4.3,
        "rating_number": 384,
        "features": [],
        "description": ["Warm.", "Red."],
        "price": 7.86,
        "images": [{"thumb": "https://m.media-amazon.com/images/I/41.jpg"}],
        "videos": [],
        "store": "OPI",
        "categories": ["Beauty", "Makeup", "Lips", "Cheeks"],
        "details": {"Best Sellers Rank": {"Beauty": 1}, "UPC": "619828"},
        "parent_asin": "B1",
        "bought_together": None,
    },
    {"parent_asin": "B2", "title": "Soap's up", "main_category": "Beauty", "price": None},
    {"parent_asin": "B9", "title": "Never reviewed"},
]


def write(path: Path, text: str) -> None:
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


def lines(rows: list[Any], spell: Callable[[Any], str] = json.dumps) -> str:
    return "".join(spell(row) + "\n" for row in rows)


def old_review(user: str, item: str, time: int) -> dict[str, Any]:
    return {"reviewerID": user, "asin": item, "overall": 5.0, "unixReviewTime": time}


def new_review(user: str, item: str, time: int) -> dict[str, Any]:
    variant = f"variant of {item}"
    return {"user_id": user, "asin": variant, "parent_asin": item, "timestamp": time * 1000}


def write_2014(raw: Path) -> None:
    write(raw / "meta_Beauty.json.gz", lines(META_2014, repr))
    write(raw / "reviews_Beauty_5.json.gz", lines([old_review(*row) for row in REVIEWS]))


def write_2014_ratings(raw: Path) -> None:
    write(raw / "meta_Beauty.json", lines(META_2014, repr))
    write(raw / "ratings_Beauty.csv", lines([f"{u},{i},5.0,{t}" for u, i, t in REVIEWS], str))


def write_2018(raw: Path) -> None:
    write(raw / "meta_All_Beauty.json.gz", lines(META_2018))
    write(raw / "All_Beauty_5.json.gz", lines([old_review(*row) for row in REVIEWS]))


def write_2018_ratings(raw: Path) -> None:
    write(raw / "meta_All_Beauty.json.gz", lines(META_2018))
    write(raw / "All_Beauty.csv", lines([f"{i},{u},5.0,{t}" for u, i, t in REVIEWS], str))


def write_2023(raw: Path) -> None:
    write(raw / "meta_All_Beauty.jsonl.gz", lines(META_2023))
    write(raw / "All_Beauty.jsonl.gz", lines([new_review(*row) for row in REVIEWS]))


def write_2023_ratings(raw: Path) -> None:
    write(raw / "meta_All_Beauty.jsonl", lines(META_2023))
    rows = [f"{u},{i},5.0,{t}000" for u, i, t in REVIEWS]
    write(raw / "All_Beauty.csv.gz", lines(["user_id,parent_asin,rating,timestamp", *rows], str))


def write_2023_ratings_without_header(raw: Path) -> None:
    write_2023_ratings(raw)
    rows = [f"{u},{i},5.0,{t}000" for u, i, t in REVIEWS]
    write(raw / "All_Beauty.csv.gz", lines(rows, str))


RELEASES = [
    write_2014,
    write_2014_ratings,
    write_2018,
    write_2018_ratings,
    write_2023,
    write_2023_ratings,
    write_2023_ratings_without_header,
]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "beauty"
    folder.mkdir()
    return folder


def prepared(raw: Path, *, strict: bool = False) -> tuple[Report, Catalogue, list[list[int]]]:
    out = raw.parent / "out"
    report = prepare("amazon", raw, out, strict=strict)
    catalogue = Catalogue.read(out / "items.parquet")
    sequences = read_sequences(out / "interactions.parquet", catalogue)
    return report, catalogue, [sequence.tolist() for sequence in sequences]


def places(report: Report, rows: Any, kind: str) -> list[str]:
    return [str(place) for place in report.problems[rows, kind].first]


@pytest.mark.parametrize("release", RELEASES)
def test_every_release_gives_the_same_products_and_sequences(raw, release):
    release(raw)
    (raw / "README.md").touch()
    _, catalogue, sequences = prepared(raw)
    brand = "store" if "2023" in release.__name__ else "brand"
    lipstick = {brand if name == "brand" else name: LIPSTICK[name] for name in LIPSTICK}
    assert list(catalogue) == [("B1", lipstick), ("B2", SOAP)]
    assert sequences == SEQUENCES


@pytest.mark.parametrize("release", RELEASES)
def test_products_without_a_review_are_left_out_counted_and_allowed_by_strict(raw, release):
    release(raw)
    report, *_ = prepared(raw, strict=True)
    kind = ("items", "item without a review")
    assert (report.read("items"), report.kept["items"], report.problems[kind].count) == (3, 2, 1)
    assert places(report, *kind)[0].endswith(":3: item 'B9' has no review")
    assert report.summary() == ""


@pytest.mark.parametrize(("release", "unit"), [(write_2018, 1), (write_2023, 1000)])
def test_timestamps_keep_the_unit_of_the_release(raw, release, unit):
    release(raw)
    prepared(raw)
    times = pl.read_parquet(raw.parent / "out" / "interactions.parquet")["timestamp"]
    assert times.to_list() == [10 * unit, 20 * unit, 30 * unit, 5 * unit]


def test_reviews_that_cannot_be_used_are_dropped_with_their_place(raw):
    write_2018(raw)
    rows = [
        *(old_review(*row) for row in REVIEWS),
        old_review(*REVIEWS[0]),
        old_review("U1", "B404", 40),
        {"reviewerID": "U1", "asin": "B1"},
        {"asin": "B1", "unixReviewTime": 1},
    ]
    write(raw / "All_Beauty_5.json.gz", lines(rows) + "{broken\n")
    report, _, sequences = prepared(raw)
    assert sequences == SEQUENCES
    file = "All_Beauty_5.json.gz"
    assert {(p.kind, str(p.first[0])) for p in report.dropped("interactions")} == {
        (
            "duplicate interaction",
            f"{file}:5: user 'U1' with item 'B1' at that time is there already",
        ),
        ("unknown item", f"{file}:6: item 'B404' is not in the catalogue"),
        ("bad timestamp", f"{file}:7: no timestamp, where other rows have one"),
        ("empty user or item", f"{file}:8: no user"),
        ("malformed row", places(report, "interactions", "malformed row")[0]),
    }
    assert places(report, "interactions", "malformed row")[0].startswith(f"{file}:9: not an inter")


def test_of_a_product_that_is_there_again_the_first_row_counts(raw):
    write_2018(raw)
    again = {**META_2018[0], "title": "Other"}
    write(raw / "meta_All_Beauty.json.gz", lines([*META_2018, META_2018[0], again]))
    report, catalogue, _ = prepared(raw)
    assert catalogue.attributes[0] == LIPSTICK
    assert places(report, "items", "duplicate item") == [
        f"meta_All_Beauty.json.gz:{line}: item 'B1' is on line 1 already" for line in (4, 5)
    ]


def test_metadata_rows_that_cannot_be_used_are_dropped_with_their_place(raw):
    write_2014(raw)
    bad = ["{'asin': 'B1', 'title': open('x')}", "{'asin': 'B1'", "{'title': 'X'}", "{1: 2}"]
    bad += [
        "{'asin': 'B1', 'title': ['X']}",
        "{'asin': ['B1']}",
        "{'asin': 'B1', 'price': " + "[" * 999,
    ]
    write(raw / "meta_Beauty.json.gz", lines([*bad, *map(repr, META_2014)], str))
    report, catalogue, _ = prepared(raw)
    assert catalogue.ids == ["B1", "B2"]
    assert places(report, "items", "malformed row") == [
        "meta_Beauty.json.gz:1: not an item: not a Python literal",
        "meta_Beauty.json.gz:2: not an item: not a Python literal: '{' was never closed",
        "meta_Beauty.json.gz:4: not an item: no Python dictionary with names for keys",
        "meta_Beauty.json.gz:5: title is of type list, not text",
        "meta_Beauty.json.gz:7: not an item: not a Python literal: too many nested parentheses",
    ]
    assert report.problems["items", "item without an id"].first[0].line == 3
    assert report.problems["items", "refused item"].first[0].line == 6


def test_a_literal_longer_than_the_limit_is_not_parsed(raw):
    write_2014(raw)
    long = repr({"asin": "B1", "title": "x" * LITERAL_CHARS})
    write(raw / "meta_Beauty.json.gz", lines([long, *map(repr, META_2014)], str))
    report, catalogue, _ = prepared(raw)
    assert catalogue.attributes[0] == LIPSTICK
    reason = "not an item: 1,048,603 characters; the limit is 1,048,576"
    assert places(report, "items", "malformed row") == [f"meta_Beauty.json.gz:1: {reason}"]


def test_what_of_a_product_cannot_be_read_is_left_out_and_named(raw):
    write_2018(raw)
    script = "var aPageStart = (new Date()).getTime();\nvar ue_t0=ue_t0||+new Date();"
    junk = {"title": script, "price": ".a-box-inner{background-color:#fff}#alohaBuyBoxWidget"}
    write(raw / "meta_All_Beauty.json.gz", lines([{**META_2018[0], **junk}, *META_2018[1:]]))
    report, catalogue, _ = prepared(raw, strict=True)
    assert catalogue.attributes[0].keys() == LIPSTICK.keys() - {"title", "price"}
    problem = report.problems["items", "unreadable attribute (left out)"]
    assert (problem.count, problem.dropped) == (2, False)
    first, second = map(str, problem.first)
    assert first.startswith("meta_All_Beauty.json.gz:1: title 'var aPageStart = ")
    assert second.startswith("meta_All_Beauty.json.gz:1: price '.a-box-inner{")
