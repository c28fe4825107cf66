"""What ``prepare`` writes: whole or not at all, the same content under the same fingerprint."""

import errno
import json
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from llmemb.catalogue import Catalogue, canonical, check_id
from llmemb.errors import DataError, ItemError, SettingsError
from llmemb.interactions import read_sequences
from trainer.data.prepare import prepare

ITEMS = '{"id": "a", "title": "A", "brand": "X"}\n{"id": "b", "title": "B"}\n'
LOG = "user,item,timestamp\nv,a,9\nu,b,5\nu,a,5\nv,a,2\nu,b,1\n"


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / "items.jsonl").write_text(ITEMS)
    (folder / "interactions.csv").write_text(LOG)
    return folder


def facts(out: Path) -> dict[str, Any]:
    return json.loads((out / "dataset.json").read_text())


def test_users_come_in_order_of_first_appearance_oldest_first_ties_in_file_order(raw, tmp_path):
    prepare("files", raw, tmp_path / "out")
    table = pq.read_table(tmp_path / "out" / "interactions.parquet")
    assert list(zip(*(column.to_pylist() for column in table.columns), strict=True)) == [
        ("v", "a", 2),
        ("v", "a", 9),
        ("u", "b", 1),
        ("u", "b", 5),
        ("u", "a", 5),
    ]
    assert table.column_names == ["user", "item", "timestamp"]
    assert table.schema.field("timestamp").type == pa.int64()


def test_dataset_json_names_what_was_prepared(raw, tmp_path):
    prepare("files", raw, tmp_path / "out")
    written = facts(tmp_path / "out")
    assert len(written.pop("fingerprint")) == 64
    assert set(written.pop("files")) == {"items.parquet", "interactions.parquet"}
    assert written.pop("report")["read"] == {"items": 2, "interactions": 5}
    assert written == {
        "schema": 1,
        "name": "shop",
        "source": "files",
        "domain": "item",
        "items": 2,
        "users": 2,
        "interactions": 5,
    }


def test_the_domain_is_the_users_where_given(raw, tmp_path):
    prepare("files", raw, tmp_path / "out", domain="product")
    assert facts(tmp_path / "out")["domain"] == "product"


def test_unknown_timestamps_are_null(raw, tmp_path):
    (raw / "interactions.csv").write_text("user,item\nu,b\nu,a\nu,b\n")
    prepare("files", raw, tmp_path / "out")
    table = pq.read_table(tmp_path / "out" / "interactions.parquet")
    assert table["timestamp"].null_count == 3
    assert table.schema.field("timestamp").type == pa.int64()


def test_the_fingerprint_is_of_the_content_alone(raw, tmp_path):
    prepare("files", raw, tmp_path / "one")
    other = raw.rename(tmp_path / "renamed")
    (other / "items.jsonl").write_text(
        '{"brand": "X ", "title": "A", "id": "a", "size": null}\n{"id": "b", "title": "B"}\n'
    )
    prepare("files", other, tmp_path / "two")
    assert facts(tmp_path / "one")["fingerprint"] == facts(tmp_path / "two")["fingerprint"]


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("items.jsonl", "X", "Y"),
        ("items.jsonl", '"id": "b", "title"', '"id": "b", "name"'),
        ("interactions.csv", "v,a,9", "v,b,9"),
        ("interactions.csv", "v,a,9", "w,a,9"),
        ("interactions.csv", "v,a,9", "v,a,8"),
        ("interactions.csv", "u,b,5\n", ""),
    ],
)
def test_the_fingerprint_changes_with_the_content(raw, tmp_path, file, old, new):
    (raw / "interactions.csv").write_text(LOG + "u,a,7\n")
    prepare("files", raw, tmp_path / "one")
    (raw / file).write_text((raw / file).read_text().replace(old, new))
    prepare("files", raw, tmp_path / "two")
    assert facts(tmp_path / "one")["fingerprint"] != facts(tmp_path / "two")["fingerprint"]


def test_the_fingerprint_changes_with_the_domain(raw, tmp_path):
    prepare("files", raw, tmp_path / "one")
    prepare("files", raw, tmp_path / "two", domain="film")
    assert facts(tmp_path / "one")["fingerprint"] != facts(tmp_path / "two")["fingerprint"]


def test_a_prepared_data_set_is_replaced_whole(raw, tmp_path):
    out = tmp_path / "deep" / "out"
    prepare("files", raw, out)
    (out / "stale").touch()
    prepare("files", raw, out)
    assert sorted(path.name for path in out.iterdir()) == [
        "dataset.json",
        "interactions.parquet",
        "items.parquet",
    ]
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_any_other_folder_or_file_is_left_alone(raw, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "file").touch()
    for out in (tmp_path / "mine", tmp_path / "file", raw):
        with pytest.raises(DataError, match=r"holds no dataset\.json; remove it or choose"):
            prepare("files", raw, out)


def test_the_raw_data_is_never_replaced(raw, tmp_path):
    (tmp_path / "dataset.json").touch()
    for out in (tmp_path, tmp_path / "shop" / ".."):
        with pytest.raises(DataError, match="holds the raw data"):
            prepare("files", raw, out)


def test_a_full_disk_leaves_the_old_data_set_and_nothing_else(raw, tmp_path, monkeypatch):
    out = tmp_path / "out"
    prepare("files", raw, out)
    before = {path: path.read_bytes() for path in out.iterdir()}

    def full(self: Catalogue, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Catalogue, "write", full)
    with pytest.raises(DataError, match=r"out cannot be written: .*No space left.*make room"):
        prepare("files", raw, out)
    assert {path: path.read_bytes() for path in out.iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "shop"]


def test_unknown_source_and_missing_folder_are_named(raw, tmp_path):
    with pytest.raises(SettingsError, match="no source 'netflix'; choose one of movielens"):
        prepare("netflix", raw, tmp_path / "out")
    with pytest.raises(DataError, match="nowhere is not a folder"):
        prepare("files", tmp_path / "nowhere", tmp_path / "out")


# A byte-order mark would vanish from the start of a file, as it should.
words = st.text(st.characters(exclude_categories=["Cc", "Cs"], exclude_characters=" \ufeff"))
ids = words.filter(lambda text: 0 < len(text) < 20)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def usable(attributes: dict[str, Any]) -> bool:
    try:
        canonical(attributes)
    except ItemError:
        return False
    return "id" not in attributes and attributes.keys() != {"attributes"}


@st.composite
def data_sets(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, list[str]]]:
    attributes = st.dictionaries(st.text(), values, max_size=4).filter(usable)
    items = draw(st.dictionaries(ids, attributes, min_size=1, max_size=6))
    sequence = st.lists(st.sampled_from(list(items)), min_size=1, max_size=6)
    users = draw(st.dictionaries(ids, sequence, min_size=1, max_size=5))
    assume(any(len(sequence) >= 3 for sequence in users.values()))
    return items, users


@given(data_sets(), st.booleans())
@settings(max_examples=60, deadline=None)
def test_any_valid_items_and_sequences_come_back_equal(data, nested):
    items, users = data
    for item_id in items:
        check_id(item_id)
    rows = (
        {"id": item_id, "attributes": attributes} if nested else {"id": item_id, **attributes}
        for item_id, attributes in items.items()
    )
    with tempfile.TemporaryDirectory() as folder:
        raw, out = Path(folder, "raw"), Path(folder, "out")
        raw.mkdir()
        (raw / "items.jsonl").write_text(
            "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows),
            encoding="utf-8",
            newline="\n",
        )
        lines = (" ".join([user, *sequence]) + "\n" for user, sequence in users.items())
        (raw / "sequences.txt").write_text("".join(lines), encoding="utf-8", newline="\n")

        prepare("files", raw, out, strict=True)
        catalogue = Catalogue.read(out / "items.parquet")
        sequences = read_sequences(out / "interactions.parquet", catalogue)

    assert dict(catalogue) == items
    assert catalogue.ids == list(items)
    assert [[catalogue.ids[i] for i in s] for s in sequences] == list(users.values())
