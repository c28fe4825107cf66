"""Rows that cannot be used are dropped, counted and named; rows worth knowing of are named."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from llmemb.catalogue import Catalogue
from llmemb.errors import DataError
from trainer.data.prepare import prepare
from trainer.data.report import Report

A, B = {"id": "a", "title": "A"}, {"id": "b", "title": "B"}
LOG = "user,item,timestamp\nu,a,1\nu,b,2\nu,a,3\n"


def run(tmp_path: Path, items: str, log: str, name: str, *, strict: bool = False) -> Report:
    raw = tmp_path / "raw"
    raw.mkdir(exist_ok=True)
    (raw / "items.jsonl").write_text(items)
    (raw / name).write_text(log)
    return prepare("files", raw, tmp_path / "out", strict=strict)


def jsonl(*rows: object) -> str:
    return "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)


DEEP = '{"id": "x", "v": ' + "[" * 100_000 + "]" * 100_000 + "}"


@pytest.mark.parametrize(
    ("row", "kind", "reason"),
    [
        ('{"id": "x", ', "malformed row", "not an item"),
        ('["x"]', "malformed row", "a JSON array where an object is expected"),
        ('{"id": "x", "v": 1, "v": 2}', "malformed row", "key 'v' is there twice"),
        (DEEP, "malformed row", "nested too deep"),
        ({"title": "X"}, "item without an id", 'no key "id"'),
        ({"id": ""}, "refused item", "may not be empty"),
        ({"id": None}, "refused item", "the id is null"),
        ({"id": 1.5}, "refused item", "the id is 1.5"),
        ({"id": True}, "refused item", "the id is true"),
        ({"id": ["x"]}, "refused item", 'the id is ["x"]'),
        ({"id": "x\u0007"}, "refused item", "control characters"),
        ({"id": "x" * 600}, "refused item", "the limit is 512"),
        ({"id": "x", "text": "y" * 2**20}, "refused item", "text: the attributes take 1,048,"),
        ('{"id": "x", "v": NaN}', "refused item", "v: nan is not a number"),
        ('{"id": "x", "\\ud800": "\\ud800"}', "refused item", "not valid Unicode"),
        (A, "duplicate item", "item 'a' is on line 1 already"),
        ({"title": " A", "id": "a"}, "duplicate item", "item 'a' is on line 1 already"),
    ],
)
def test_an_item_row_that_cannot_be_used_is_dropped(tmp_path, row, kind, reason):
    report = run(tmp_path, jsonl(A, row, B), LOG, "interactions.csv")

    problem = report.problems["items", kind]
    assert (problem.count, problem.dropped, report.read("items")) == (1, True, 3)
    assert (problem.first[0].file, problem.first[0].line) == ("items.jsonl", 2)
    assert reason in problem.first[0].reason
    assert Catalogue.read(tmp_path / "out" / "items.parquet").ids == ["a", "b"]
    json.loads((tmp_path / "out" / "dataset.json").read_bytes())


@pytest.mark.parametrize(
    ("row", "kind", "reason"),
    [
        ("u,a", "malformed row", "3 fields separated by ',' are expected"),
        ("u,a,4,5", "malformed row", "3 fields"),
        (",a,4", "empty user or item", "no user"),
        ("u,,4", "empty user or item", "no item"),
        ("u,a,soon", "bad timestamp", "timestamp 'soon' is not a number"),
        ("u,a,inf", "bad timestamp", "timestamp 'inf'"),
        ("u,a,99999999999999999999", "bad timestamp", "timestamp '9999"),
        ("u,a,", "bad timestamp", "no timestamp, where other rows have one"),
        ("u,nowhere,4", "unknown item", "item 'nowhere' is not in the catalogue"),
        ("u,b,2", "duplicate interaction", "user 'u' with item 'b' at that time"),
        ("u,b,2.0", "duplicate interaction", "user 'u' with item 'b' at that time"),
    ],
)
@pytest.mark.parametrize("quoted", [False, True])
def test_an_interaction_row_that_cannot_be_used_is_dropped(tmp_path, row, kind, reason, quoted):
    log = LOG + row + "\n" + ('"v",a,9\n' if quoted else "v,a,9\n")
    report = run(tmp_path, jsonl(A, B), log, "interactions.csv")

    problem = report.problems["interactions", kind]
    assert (problem.count, problem.dropped, report.read("interactions")) == (1, True, 5)
    assert (problem.first[0].file, problem.first[0].line) == ("interactions.csv", 5)
    if not (quoted and kind == "malformed row"):
        assert reason in problem.first[0].reason
    assert report.kept["interactions"] == 4


@pytest.mark.parametrize(
    ("row", "kind", "reason"),
    [
        ('{"user": "u", "item"', "malformed row", "not an interaction"),
        ('["u", "a"]', "malformed row", "a JSON array"),
        ({"user": ["u"], "item": "a", "timestamp": 4}, "malformed row", "user is a JSON array"),
        ({"user": "u", "item": {}, "timestamp": 4}, "malformed row", "item is a JSON object"),
        ({"user": True, "item": "a", "timestamp": 4}, "malformed row", "user is a JSON boolean"),
        ('{"user": "u", "item": "a", "timestamp": NaN}', "malformed row", "a NaN"),
        ({"user": None, "item": "a", "timestamp": 4}, "empty user or item", "no user"),
        ({"user": "u", "timestamp": 4}, "empty user or item", "no item"),
        ({"user": "u", "item": "a"}, "bad timestamp", "no timestamp, where"),
        ({"user": "u", "item": "a", "timestamp": None}, "bad timestamp", "no timestamp, where"),
        ({"user": "u", "item": "a", "timestamp": [4]}, "bad timestamp", "'[4]' is not a number"),
    ],
)
def test_a_json_interaction_that_cannot_be_used_is_dropped(tmp_path, row, kind, reason):
    good = [{"user": "u", "item": item, "timestamp": n} for n, item in enumerate("aba")]
    report = run(tmp_path, jsonl(A, B), jsonl(*good, "", row), "interactions.jsonl")
    place = report.problems["interactions", kind].first[0]
    assert (place.line, report.kept["interactions"]) == (5, 3)
    assert reason in place.reason


def test_ids_that_look_like_json_are_ids(tmp_path):
    rows = [{"user": user, "item": "[1]"} for user in ("[u", "{", "true", "null") * 3]
    report = run(tmp_path, jsonl({"id": "[1]", "v": 1}), jsonl(*rows), "interactions.jsonl")
    assert report.kept == {"items": 1, "users": 4, "interactions": 12}


def test_a_user_without_items_is_dropped(tmp_path):
    report = run(tmp_path, jsonl(A), "u a a a\nv \n", "sequences.txt")
    place = report.problems["interactions", "malformed row"].first[0]
    assert str(place) == "sequences.txt:2: user 'v' without items"


def test_without_timestamps_the_same_item_again_is_kept(tmp_path):
    report = run(tmp_path, jsonl(A, B), "u a a b\n", "sequences.txt")
    assert report.kept["interactions"] == 3


def test_the_first_five_places_are_kept_and_all_are_counted(tmp_path):
    log = LOG + "".join(f"u,x{n},{n}\n" for n in range(10, 20))
    problem = run(tmp_path, jsonl(A, B), log, "interactions.csv").problems[
        "interactions", "unknown item"
    ]
    assert problem.count == 10
    assert [place.line for place in problem.first] == [5, 6, 7, 8, 9]


def test_strict_turns_a_dropped_row_into_an_error(tmp_path):
    log = LOG + "u,nowhere,4\n,b,5\n"
    with pytest.raises(DataError, match=r"csv:6: no user; mend .*1 empty .*, 1 unknown item"):
        run(tmp_path, jsonl(A, B), log, "interactions.csv", strict=True)
    assert not (tmp_path / "out").exists()
    run(tmp_path, jsonl(A, B), LOG, "interactions.csv", strict=True)


def test_what_is_worth_knowing_is_kept_and_named(tmp_path):
    items = jsonl(A, {"id": "b", "title": None}, {"id": "c", "title": "C"})
    report = run(tmp_path, items, "u a a b\nv b\n", "sequences.txt", strict=True)
    noted = {
        kind: (problem.count, str(problem.first[0]))
        for (_, kind), problem in report.problems.items()
    }
    assert noted == {
        "item without attributes": (1, "items.jsonl:2: no attributes"),
        "item never interacted with": (1, "items.jsonl:3: item 'c'"),
        "missing timestamp": (4, "sequences.txt:1: no timestamps; the order of the file is used"),
        "user with fewer than 3 interactions (trained on, not evaluated)": (
            1,
            "sequences.txt:2: user 'v' has 1",
        ),
    }


def test_the_report_is_shown_and_written(tmp_path):
    log = LOG + "u,[red]nowhere,4\n"
    report = run(tmp_path, jsonl(A, B), log, "interactions.csv")
    console = Console(file=io.StringIO(), width=160)
    console.print(report.render())
    shown = console.file.getvalue()
    assert "interactions.csv:5: item '[red]nowhere' is not in the catalogue" in shown
    assert json.loads((tmp_path / "out" / "dataset.json").read_text())["report"] == {
        "read": {"items": 2, "interactions": 4},
        "kept": {"items": 2, "users": 1, "interactions": 3},
        "problems": [
            {
                "rows": "interactions",
                "kind": "unknown item",
                "dropped": True,
                "count": 1,
                "first": ["interactions.csv:5: item '[red]nowhere' is not in the catalogue"],
            }
        ],
    }
