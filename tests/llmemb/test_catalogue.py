"""Canonical form and content hash; the catalogue on disk."""

import json
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmemb.catalogue import MAX_DEPTH, MAX_ITEM_BYTES, Catalogue, canonical, check_id, content_hash
from llmemb.errors import DataError, ItemError

text = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | text
)
values = st.recursive(
    leaves, lambda v: st.lists(v, max_size=3) | st.dictionaries(text, v, max_size=3), max_leaves=8
)
attributes = st.dictionaries(text, values, max_size=5)


def stable(item: dict) -> bool:
    """Whether no two keys, at any level, become one in canonical form."""
    if isinstance(item, list):
        return all(stable(inner) for inner in item)
    if not isinstance(item, dict):
        return True
    keys = [unicodedata.normalize("NFC", key).strip() for key in item]
    return len(set(keys)) == len(keys) and all(stable(inner) for inner in item.values())


@given(attributes.filter(stable))
def test_canonical_form_is_json_and_a_fixed_point(item: dict) -> None:
    assert canonical(json.loads(canonical(item))) == canonical(item)


@given(attributes.filter(stable))
def test_key_order_does_not_matter(item: dict) -> None:
    assert content_hash(dict(reversed(item.items()))) == content_hash(item)


def test_spellings_of_the_same_item_share_a_hash() -> None:
    one = {"title": "Amélie", "year": 2001.0, "tags": [], "note": None}
    other = {"year": 2001, "title": unicodedata.normalize("NFD", " Amélie ")}
    assert content_hash(one) == content_hash(other)


def test_different_items_differ() -> None:
    assert content_hash({"title": "1"}) != content_hash({"title": 1})
    assert content_hash({"tags": ["a", "b"]}) != content_hash({"tags": ["b", "a"]})


def nested(depth: int) -> dict:
    value: object = "deep"
    for _ in range(depth):
        value = [value]
    return {"a": value}


@pytest.mark.parametrize(
    ("item", "path", "reason"),
    [
        ({"price": float("nan")}, ("price",), "not a number"),
        ({"cast": [{"age": float("inf")}]}, ("cast", 0, "age"), "not a number"),
        ({"title": "\ud800"}, ("title",), "not valid Unicode"),
        ({"title": b"bytes"}, ("title",), "type bytes"),
        (nested(MAX_DEPTH + 1), ("a",), "levels deep"),
        ({"blurb": "x" * 1_000_000}, ("blurb",), f"the limit is {MAX_ITEM_BYTES:,}"),
        ({"a": 1, " a": 2}, (), "given twice"),
    ],
)
def test_what_cannot_be_used_is_named(item: dict, path: tuple, reason: str) -> None:
    with pytest.raises(ItemError, match=reason) as caught:
        canonical(item)
    assert caught.value.path == path


@pytest.mark.parametrize("item_id", ["", "x" * 600, "a\nb", "\ud800"])
def test_unusable_ids_are_refused(item_id: str) -> None:
    with pytest.raises(ItemError):
        check_id(item_id)


def test_catalogue_comes_back_as_written(tmp_path: Path) -> None:
    catalogue = Catalogue(["b", "a/1"], [{"z": 1, "a": [None, {"k": "ü"}]}, {}])
    catalogue.write(tmp_path / "items.parquet")
    again = Catalogue.read(tmp_path / "items.parquet")
    assert again == catalogue
    assert list(again.attributes[0]) == ["z", "a"]  # source order, which the prompt follows
    assert again.fields() == ["z", "a"]


def test_an_unreadable_catalogue_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"items\.parquet is not there"):
        Catalogue.read(tmp_path / "items.parquet")
    (tmp_path / "items.parquet").write_text("id,title")
    with pytest.raises(DataError, match=r"items\.parquet cannot be read"):
        Catalogue.read(tmp_path / "items.parquet")


def test_an_id_twice_is_refused() -> None:
    with pytest.raises(DataError, match="twice"):
        Catalogue(["a", "a"], [{}, {}])
