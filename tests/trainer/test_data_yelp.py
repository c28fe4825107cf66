"""The ``yelp`` source: businesses with Yelp's own attributes, reviews with dates."""

import gzip
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from llmemb.catalogue import Catalogue
from llmemb.errors import DataError
from llmemb.interactions import read_sequences
from trainer.data.prepare import prepare
from trainer.data.yelp import BUSINESSES, REVIEWS, business

GRILLE = {
    "business_id": "ngmLL5Y5OT-bYHKU0kKrYA",
    "name": "Zora Grille",
    "address": "1370 E Altamonte Dr",
    "city": "Altamonte Springs",
    "state": "FL",
    "postal_code": "32701",
    "latitude": 28.66,
    "longitude": -81.34,
    "stars": 4.5,
    "review_count": 82,
    "is_open": 0,
    "attributes": {
        "RestaurantsReservations": "True",
        "DogsAllowed": "False",
        "RestaurantsPriceRange2": "2",
        "Alcohol": "u'beer_and_wine'",
        "RestaurantsAttire": "'casual'",
        "NoiseLevel": "average",
        "RestaurantsDelivery": "None",
        "BusinessParking": "{'garage': False, 'street': None, 'lot': True, 'valet': True}",
        "Ambience": "{'romantic': False, 'casual': False}",
        "Music": "{u'dj': False",
    },
    "categories": "Restaurants, Middle Eastern, Beer, Wine & Spirits, Persian/Iranian",
    "hours": {"Monday": "17:0-21:0"},
}
BARE = {"business_id": "b", "name": "Café", "attributes": None, "categories": None, "hours": None}
READ = {
    "name": "Zora Grille",
    "address": "1370 E Altamonte Dr",
    "city": "Altamonte Springs",
    "state": "FL",
    "postal_code": "32701",
    "categories": ["Restaurants", "Middle Eastern", "Beer, Wine & Spirits", "Persian/Iranian"],
    "RestaurantsReservations": True,
    "DogsAllowed": False,
    "RestaurantsPriceRange2": 2,
    "Alcohol": "beer_and_wine",
    "RestaurantsAttire": "casual",
    "NoiseLevel": "average",
    "BusinessParking": ["lot", "valet"],
    "Music": "{u'dj': False",
}
LOG = [
    ("u", GRILLE["business_id"], "2018-07-07 22:09:11"),
    ("u", "b", "2018-07-07 22:09:10"),
    ("v", "b", "2012-01-03 15:28:18"),
    ("u", "b", "2021-01-01 00:00:00"),
]


def review(user: Any, item: Any, date: Any) -> dict[str, Any]:
    text = {"stars": 3.0, "useful": 0, "text": 'Great,\n"really".', "date": date}
    return {"review_id": "r", "user_id": user, "business_id": item, **text}


def jsonl(*rows: Any) -> str:
    return "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "yelp"
    folder.mkdir()
    (folder / BUSINESSES).write_text(jsonl(GRILLE, BARE))
    (folder / REVIEWS).write_text(jsonl(*(review(*row) for row in LOG)))
    return folder


def test_businesses_and_reviews_are_read(raw, tmp_path):
    report = prepare("yelp", raw, tmp_path / "out", strict=True)
    catalogue = Catalogue.read(tmp_path / "out" / "items.parquet")
    assert list(catalogue) == [(GRILLE["business_id"], READ), ("b", {"name": "Café"})]
    log = tmp_path / "out" / "interactions.parquet"
    assert [s.tolist() for s in read_sequences(log, catalogue)] == [[1, 0, 1], [1]]
    assert pl.read_parquet(log)["timestamp"][0] == 1_531_001_350
    assert report.kept == {"items": 2, "users": 2, "interactions": 4}


def test_gzip_files_are_read(raw, tmp_path):
    for name in (BUSINESSES, REVIEWS):
        (raw / f"{name}.gz").write_bytes(gzip.compress((raw / name).read_bytes()))
        (raw / name).unlink()
    assert prepare("yelp", raw, tmp_path / "out").kept["interactions"] == 4


def test_older_releases_spell_days_lists_and_values(raw, tmp_path):
    old = {
        **BARE,
        "categories": ["Salad"],
        "attributes": {"Parking": {"lot": True}, "Noise": "low"},
    }
    (raw / BUSINESSES).write_text(jsonl(old))
    days = [review("u", "b", f"2016-03-0{day}") for day in (9, 8, 7)]
    (raw / REVIEWS).write_text(jsonl(*days))
    prepare("yelp", raw, tmp_path / "out")
    attributes = Catalogue.read(tmp_path / "out" / "items.parquet").attributes[0]
    assert attributes == {
        "name": "Café",
        "categories": ["Salad"],
        "Parking": ["lot"],
        "Noise": "low",
    }
    times = pl.read_parquet(tmp_path / "out" / "interactions.parquet")["timestamp"].to_list()
    assert times == [1_457_308_800 + 86_400 * day for day in range(3)]


@pytest.mark.parametrize(
    ("row", "kind", "reason"),
    [
        (review("u", "b", "2020-13-45 00:00:00"), "bad timestamp", "date '2020-13-45 00:00:00' is"),
        (review("u", "b", 1531001350), "bad timestamp", "date '1531001350' is not a time such as"),
        (review("u", "b", None), "bad timestamp", "no timestamp, where other rows have one"),
        (review("u", "x", LOG[0][2]), "unknown item", "item 'x' is not in the catalogue"),
        (review(None, "b", LOG[0][2]), "empty user or item", "no user"),
        (review(["u"], "b", LOG[0][2]), "malformed row", "user_id is a JSON array"),
        (review(*LOG[1]), "duplicate interaction", "user 'u' with item 'b' at that time"),
        ('{"user_id": "u",', "malformed row", "not an interaction"),
    ],
)
def test_a_review_that_cannot_be_used_is_dropped(raw, tmp_path, row, kind, reason):
    with (raw / REVIEWS).open("a") as file:
        file.write(jsonl(row))
    report = prepare("yelp", raw, tmp_path / "out")
    problem = report.problems["interactions", kind]
    assert (problem.count, problem.dropped, report.read("interactions")) == (1, True, 5)
    assert str(problem.first[0]).startswith(f"{REVIEWS}:5: {reason}")


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"attributes": "{}"}, "attributes is of type str, not an object"),
        ({"categories": {"a": 1}}, "categories is of type dict, not text"),
        ({"categories": [1]}, "categories is of type list, not text"),
    ],
)
def test_a_business_of_another_layout_is_dropped(raw, tmp_path, fields, reason):
    with (raw / BUSINESSES).open("a") as file:
        file.write(jsonl({**BARE, "business_id": "c", **fields}))
    report = prepare("yelp", raw, tmp_path / "out")
    place = report.problems["items", "malformed row"].first[0]
    assert str(place) == f"{BUSINESSES}:3: {reason}"


def test_yelps_own_attributes_never_replace_the_name():
    assert business({"name": "A", "attributes": {"name": "'B'"}}) == {"name": "A"}


@pytest.mark.parametrize("value", ["{1, 2}", "b'x'", "[1]", "__import__('os')", "1 +"])
def test_a_literal_of_another_type_stays_text(value):
    assert business({"attributes": {"WiFi": value}}) == {"WiFi": value}


@pytest.mark.parametrize("name", [BUSINESSES, REVIEWS])
def test_missing_and_doubled_files_are_named(raw, tmp_path, name):
    (raw / f"{name}.gz").write_bytes(gzip.compress((raw / name).read_bytes()))
    with pytest.raises(DataError, match=rf"{name} and {name}\.gz are both there; keep the one"):
        prepare("yelp", raw, tmp_path / "out")
    (raw / f"{name}.gz").unlink()
    (raw / name).unlink()
    with pytest.raises(
        DataError, match=rf"{name} or {name}\.gz is not there; expected {BUSINESSES}"
    ):
        prepare("yelp", raw, tmp_path / "out")
