"""The ``recbole`` source: atomic files, columns by name and type."""

from pathlib import Path

import pytest

from llmemb.catalogue import Catalogue
from llmemb.errors import DataError
from llmemb.interactions import read_sequences
from trainer.data.prepare import prepare

ITEMS = (
    "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\tprice:float\t"
    "sizes:float_seq\n"
    "i1\tToy Story\t1995\tAnimation Children's Comedy\t9.5\t1.0 2.5\n"
    "i2\tBoot, Das\t\t\t\t\n"
)
INTERACTIONS = (
    "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    "u1\ti1\t3\t30\nu1\ti2\t3\t10.5\nu1\ti1\t3\t10.25\n"
)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / "shop.item").write_text(ITEMS)
    (folder / "shop.inter").write_text(INTERACTIONS)
    return folder


def test_attributes_keep_their_names_and_take_their_types(raw, tmp_path):
    prepare("recbole", raw, tmp_path / "out")
    catalogue = Catalogue.read(tmp_path / "out" / "items.parquet")
    assert catalogue.attributes[0] == {
        "movie_title": "Toy Story",
        "release_year": "1995",
        "class": ["Animation", "Children's", "Comedy"],
        "price": 9.5,
        "sizes": [1.0, 2.5],
    }


def test_empty_fields_are_no_attributes(raw, tmp_path):
    prepare("recbole", raw, tmp_path / "out")
    catalogue = Catalogue.read(tmp_path / "out" / "items.parquet")
    assert catalogue.attributes[1] == {"movie_title": "Boot, Das"}


def test_fractions_of_a_timestamp_count_for_the_order(raw, tmp_path):
    prepare("recbole", raw, tmp_path / "out")
    catalogue = Catalogue.read(tmp_path / "out" / "items.parquet")
    sequences = read_sequences(tmp_path / "out" / "interactions.parquet", catalogue)
    assert [s.tolist() for s in sequences] == [[0, 1, 0]]


def test_without_a_timestamp_column_file_order_is_used(raw, tmp_path):
    (raw / "shop.inter").write_text("item_id:token\tuser_id:token\ni2\tu\ni1\tu\ni2\tu\n")
    report = prepare("recbole", raw, tmp_path / "out")
    catalogue = Catalogue.read(tmp_path / "out" / "items.parquet")
    sequences = read_sequences(tmp_path / "out" / "interactions.parquet", catalogue)
    assert [s.tolist() for s in sequences] == [[1, 0, 1]]
    assert report.problems["interactions", "missing timestamp"].count == 3


def test_rows_of_other_length_or_type_are_dropped_with_their_place(raw, tmp_path):
    with (raw / "shop.item").open("a") as file:
        file.write("i3\tShort\ni4\tDear\t\t\tmuch\t\n")
    report = prepare("recbole", raw, tmp_path / "out")
    assert [str(place) for place in report.problems["items", "malformed row"].first] == [
        "shop.item:4: 2 fields where the header has 6",
        "shop.item:5: could not convert string to float: 'much'",
    ]


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("shop.item", "item_id\ttitle\n", r"shop\.item:1: 'item_id' .* name:type"),
        ("shop.item", "id:token\tt:token\n", r"shop\.item:1: no column item_id; .* id, t;"),
        ("shop.item", "item_id:token\titem_id:token\n", r"shop\.item:1: .* twice"),
        ("shop.item", "", r"shop\.item:1: .* name:type"),
        ("shop.inter", "u:token\n", r"shop\.inter:1: no column user_id and no column item_id"),
    ],
)
def test_a_header_that_is_wrong_stops(raw, tmp_path, file, text, message):
    (raw / file).write_text(text)
    with pytest.raises(DataError, match=message):
        prepare("recbole", raw, tmp_path / "out")


def test_several_interaction_files_are_not_guessed_between(raw, tmp_path):
    (raw / "shop.test.inter").write_text(INTERACTIONS)
    with pytest.raises(DataError, match=r"more than one .*shop\.inter, shop\.test\.inter"):
        prepare("recbole", raw, tmp_path / "out")


def test_missing_files_are_named(raw, tmp_path):
    (raw / "shop.item").unlink()
    with pytest.raises(DataError, match=r"shop\.item is not there; expected NAME\.inter"):
        prepare("recbole", raw, tmp_path / "out")
    (raw / "shop.inter").unlink()
    with pytest.raises(DataError, match=r"no \.inter file"):
        prepare("recbole", raw, tmp_path / "out")
