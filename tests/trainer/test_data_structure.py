"""Raw data that cannot be used at all: one line that says where, what and what to do."""

import json
from pathlib import Path

import polars as pl
import pytest

from llmemb.errors import DataError
from trainer.data.prepare import prepare

ITEMS = '{"id": "a", "title": "A"}\n{"id": "b", "title": "B"}\n'
CSV = "id,title\na,A\n"


def failure(tmp_path: Path, files: dict[str, str | bytes]) -> str:
    raw = tmp_path / "raw"
    raw.mkdir()
    for name, content in files.items():
        (raw / name).write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(DataError) as caught:
        prepare("files", raw, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("items.jsonl", '{"asin": "a", "title": "A"}\n', "asin, title"),
        ("items.csv", "asin,title\na,A\n", "asin, title"),
        ("items.csv", '"asin"\na\n', "asin"),
    ],
)
def test_items_without_an_id_name_the_columns_found(tmp_path, name, content, found):
    message = failure(tmp_path, {name: content, "sequences.txt": "u a a a\n"})
    assert f"{name}:1: no " in message
    assert f" found are {found};" in message or f" columns are {found};" in message


@pytest.mark.parametrize(
    ("name", "content", "lacking"),
    [
        ("interactions.jsonl", '{"user_id": "u", "item": "a"}\n', "no user "),
        ("interactions.jsonl", 'bad\n{"user": "u", "asin": "a"}\n', "no item "),
        ("interactions.csv", "user_id,item\nu,a\n", "no column user;"),
        ("interactions.csv", "who,what\nu,a\n", "no column user and no column item;"),
    ],
)
def test_interactions_without_user_or_item_name_the_columns_found(tmp_path, name, content, lacking):
    message = failure(tmp_path, {"items.jsonl": ITEMS, name: content})
    assert lacking in message
    assert any(name in message for name in ("user_id", "asin", "who, what"))


def test_parquet_columns_are_checked_by_name_and_type(tmp_path):
    log = tmp_path / "log.parquet"
    for number, (frame, message) in enumerate(
        [
            (pl.DataFrame({"who": ["u"], "item": ["a"]}), "no column user; the columns are who"),
            (pl.DataFrame({"user": [1.5], "item": ["a"]}), "column user is Float64; write"),
            (
                pl.DataFrame({"user": ["u"], "item": ["a"], "timestamp": [True]}),
                "column timestamp is Boolean; write",
            ),
        ]
    ):
        frame.write_parquet(log)
        (folder := tmp_path / str(number)).mkdir()
        files = {"items.jsonl": ITEMS, "interactions.parquet": log.read_bytes()}
        assert message in failure(folder, files)


@pytest.mark.parametrize("content", [b"", b"hello", b"PAR1" + b"x" * 50 + b"PAR1"])
@pytest.mark.parametrize("name", ["items.parquet", "interactions.parquet"])
def test_a_damaged_parquet_file_is_named(tmp_path, name, content):
    other = {"items.jsonl": ITEMS} if name != "items.parquet" else {"sequences.txt": "u a a a\n"}
    assert f"{name}: not a Parquet file" in failure(tmp_path, {**other, name: content})


@pytest.mark.parametrize(
    ("name", "before"),
    [
        ("items.jsonl", ITEMS),
        ("items.csv", CSV),
        ("interactions.jsonl", '{"user": "u", "item": "a"}\n'),
        ("interactions.csv", "user,item\nu,a\n"),
        ("sequences.txt", "u a a a\n"),
    ],
)
def test_text_that_is_not_utf8_is_named_with_line_and_byte(tmp_path, name, before):
    other = {"sequences.txt": "u a a a\n"} if name.startswith("items") else {"items.jsonl": ITEMS}
    message = failure(tmp_path, {**other, name: before.encode() + b"caf\xe9,x\n"})
    line = before.count("\n") + 1
    assert f"{name}:{line}: not UTF-8 at byte {len(before) + 3} of the file" in message
    assert "iconv" in message


def test_an_empty_catalogue_stops(tmp_path):
    message = failure(tmp_path, {"items.jsonl": "\n", "sequences.txt": "u a a a\n"})
    assert "items.jsonl:1: no items in the file" in message


def test_a_catalogue_whose_rows_are_all_bad_says_why(tmp_path):
    message = failure(tmp_path, {"items.jsonl": '\n{"id": ""}\n', "sequences.txt": "u a a a\n"})
    assert "items.jsonl:2: no item is left of 1 rows; mend the rows" in message
    assert "an item id may not be empty" in message


@pytest.mark.parametrize(
    ("name", "content"),
    [("sequences.txt", ""), ("interactions.jsonl", "\n"), ("interactions.csv", "user,item\n")],
)
def test_no_interactions_stop(tmp_path, name, content):
    message = failure(tmp_path, {"items.jsonl": ITEMS, name: content})
    assert f"{name}:1: no interactions in the file" in message


def test_interactions_that_are_all_bad_say_why(tmp_path):
    rows = "".join(f"u,a,2024-01-0{day}\n" for day in range(1, 5))
    message = failure(
        tmp_path, {"items.jsonl": ITEMS, "interactions.csv": "user,item,timestamp\n" + rows}
    )
    assert "interactions.csv:2: no interactions are left of 4 rows; mend the rows" in message
    assert "timestamp '2024-01-01' is not a number, such as Unix seconds" in message


def test_no_user_with_three_interactions_stops(tmp_path):
    message = failure(tmp_path, {"items.jsonl": ITEMS, "sequences.txt": "u a b\nv a\n"})
    assert "sequences.txt: no user has 3 interactions; add some" in message


def test_items_that_were_dropped_explain_why_too_little_is_left(tmp_path):
    files = {"items.jsonl": '{"id": "b", "v": NaN}\n' + ITEMS[:27] + "\n"}
    for number, sequences in enumerate(["u b b b\n", "u b b a\n"]):
        (folder := tmp_path / str(number)).mkdir()
        message = failure(folder, {**files, "sequences.txt": sequences})
        assert "1 refused item, " in message
        assert "the first is items.jsonl:1: v: nan is not a number" in message


def test_an_id_with_two_sets_of_attributes_names_both_lines(tmp_path):
    items = ITEMS + '{"id": "a", "title": "Z"}\n'
    message = failure(tmp_path, {"items.jsonl": items, "sequences.txt": "u a a a\n"})
    assert "items.jsonl:3: item 'a' has other attributes than on line 1; keep one" in message


@pytest.mark.parametrize("name", ["items.csv", "interactions.csv"])
def test_csv_structure_is_checked(tmp_path, name):
    good = {"items.csv": CSV, "interactions.csv": "user,item\nu,a\nu,a\nu,a\n"}
    for number, (content, message) in enumerate(
        [
            ("", f"{name}:1: the file is empty"),
            ("id,user,item,item\n", f"{name}:1: column 'item' is there twice"),
            ('id,user,item\n1,u,a\n2,"u,a\n', f"{name}:3: a quoted field that starts here"),
        ]
    ):
        (folder := tmp_path / str(number)).mkdir()
        assert message in failure(folder, {**good, name: content})


def test_messages_stay_one_short_line_whatever_the_data(tmp_path):
    name = "x\n" * 100_000
    items = "".join(json.dumps({"id": "a", name: [{"b": value}]}) + "\n" for value in (1, 2))
    message = failure(tmp_path, {"items.jsonl": items, "sequences.txt": "u a a a\n"})
    assert len(message) < 1000
