"""The ``files`` source: every layout of items and interactions says the same."""

import json
from datetime import datetime
from pathlib import Path

import polars as pl
import pytest

from llmemb.catalogue import Catalogue
from llmemb.errors import DataError
from llmemb.interactions import read_sequences
from trainer.data.prepare import prepare

ITEMS = [
    {"id": "a", "title": 'The "A", mostly', "text": "two\nlines"},
    {"id": "b", "title": "Café"},
    {"id": "c", "title": "C"},
]
NESTED = [{"id": "a", "brand": {"name": "A", "tags": ["x", "y"]}, "price": 1.5}]
LOG = [("u 1", "a", 30), ("u 1", "b", 10), ("u,2", "c", 5), ("u 1", "c", 10)]
SEQUENCES = [["b", "c", "a"], ["c"]]


def items_jsonl(raw: Path) -> None:
    text = "\n".join(json.dumps(item, ensure_ascii=False) for item in ITEMS)
    (raw / "items.jsonl").write_text(text, encoding="utf-8")  # no line end behind the last


def items_jsonl_in_attributes(raw: Path) -> None:
    rows = [{"id": i["id"], "attributes": {k: i[k] for k in i if k != "id"}} for i in ITEMS]
    (raw / "items.jsonl").write_text("".join(json.dumps(row) + "\n\n" for row in rows))


def items_csv(raw: Path) -> None:
    (raw / "items.csv").write_bytes(
        '\ufeffid,title,text\r\na,"The ""A"", mostly","two\nlines"\r\nb,Café,\r\n\r\nc,C,\r\n'.encode()
    )


def items_csv_in_attributes(raw: Path) -> None:
    rows = [(i["id"], json.dumps({k: i[k] for k in i if k != "id"})) for i in ITEMS]
    pl.DataFrame(rows, schema=["id", "attributes"], orient="row").write_csv(raw / "items.csv")


def items_parquet(raw: Path) -> None:
    pl.DataFrame(ITEMS).write_parquet(raw / "items.parquet")


def log_jsonl(raw: Path) -> None:
    rows = [{"user": u, "item": i, "timestamp": t, "stars": 5} for u, i, t in LOG]
    (raw / "interactions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def log_csv(raw: Path) -> None:
    pl.DataFrame(LOG, schema=["user", "item", "timestamp"], orient="row").write_csv(
        raw / "interactions.csv"
    )


def log_parquet(raw: Path) -> None:
    pl.DataFrame(LOG, schema=["user", "item", "timestamp"], orient="row").write_parquet(
        raw / "interactions.parquet"
    )


def log_parquet_with_dates(raw: Path) -> None:
    rows = [(user, item, datetime.fromtimestamp(t)) for user, item, t in LOG]
    pl.DataFrame(rows, schema=["user", "item", "timestamp"], orient="row").write_parquet(
        raw / "interactions.parquet"
    )


ITEM_LAYOUTS = [
    items_jsonl,
    items_jsonl_in_attributes,
    items_csv,
    items_csv_in_attributes,
    items_parquet,
]
LOG_LAYOUTS = [log_jsonl, log_csv, log_parquet]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "raw"
    folder.mkdir()
    return folder


def prepared(raw: Path, out: Path) -> tuple[Catalogue, list[list[str]], str]:
    prepare("files", raw, out, strict=True)
    facts = json.loads((out / "dataset.json").read_text())
    return Catalogue.read(out / "items.parquet"), sequences_of(out), facts["fingerprint"]


def sequences_of(out: Path) -> list[list[str]]:
    catalogue = Catalogue.read(out / "items.parquet")
    sequences = read_sequences(out / "interactions.parquet", catalogue)
    return [[catalogue.ids[i] for i in sequence] for sequence in sequences]


def test_every_layout_gives_the_same_data_and_fingerprint(raw, tmp_path):
    fingerprints = set()
    for number, items in enumerate(ITEM_LAYOUTS):
        for log in LOG_LAYOUTS:
            folder = tmp_path / f"{number}-{log.__name__}"
            folder.mkdir()
            items(folder)
            log(folder)
            catalogue, sequences, fingerprint = prepared(folder, tmp_path / "out")
            assert [{"id": i, **attributes} for i, attributes in catalogue] == ITEMS
            assert sequences == SEQUENCES
            fingerprints.add(fingerprint)
    assert len(fingerprints) == 1


def test_dates_order_interactions_as_numbers_do(raw, tmp_path):
    items_jsonl(raw)
    log_parquet_with_dates(raw)
    assert prepared(raw, tmp_path / "out")[1] == SEQUENCES


def test_sequences_txt_is_a_line_a_user_oldest_first(raw, tmp_path):
    items_jsonl(raw)
    (raw / "sequences.txt").write_bytes(b"u1 b c a\r\n\nu2  c \nu1\tb")
    assert prepared(raw, tmp_path / "out")[1] == [["b", "c", "a", "b"], ["c"]]


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_nested_attributes_are_kept(raw, tmp_path, suffix):
    frame = pl.DataFrame(NESTED)
    write = {"jsonl": frame.write_ndjson, "parquet": frame.write_parquet}[suffix]
    write(raw / f"items.{suffix}")
    (raw / "sequences.txt").write_text("u a a a\n")
    assert list(prepared(raw, tmp_path / "out")[0]) == [
        ("a", {"brand": {"name": "A", "tags": ["x", "y"]}, "price": 1.5})
    ]


def test_prepared_data_can_be_prepared_again(raw, tmp_path):
    items_jsonl(raw)
    log_csv(raw)
    once = prepared(raw, tmp_path / "once")
    assert prepared(tmp_path / "once", tmp_path / "twice") == once


def test_whole_numbers_are_ids(raw, tmp_path):
    (raw / "items.jsonl").write_text('{"id": 1, "title": "A"}\n')
    pl.DataFrame({"user": [7] * 3, "item": [1] * 3}).write_parquet(raw / "interactions.parquet")
    assert prepared(raw, tmp_path / "out")[0].ids == ["1"]


def test_a_column_may_have_any_name(raw, tmp_path):
    items_csv(raw)
    (raw / "interactions.csv").write_text(
        "line,text,user,0,item\n1,x,u,0,a\n1,x,u,0,b\n1,x,u,0,c\n"
    )
    assert prepared(raw, tmp_path / "out")[1] == [["a", "b", "c"]]


def test_quoted_fields_keep_the_line_numbers(raw, tmp_path):
    items_jsonl(raw)
    (raw / "interactions.csv").write_text(
        'user,review,item\nu,"over\ntwo lines",a\nu,,b\nu,"x" y,b\nu,,c\nu,,nowhere\n'
    )
    report = prepare("files", raw, tmp_path / "out")
    dropped = [str(p.first[0]) for p in report.dropped("interactions")]
    assert dropped == [
        "interactions.csv:5: ',' expected after '\"'",
        "interactions.csv:7: item 'nowhere' is not in the catalogue",
    ]


@pytest.mark.parametrize("log", [log_jsonl, log_csv])
@pytest.mark.parametrize("items", [items_jsonl, items_csv])
def test_files_larger_than_a_block_are_read_whole(raw, tmp_path, monkeypatch, items, log):
    items(raw)
    log(raw)
    name = log.__name__.replace("log_", "interactions.")
    with (raw / name).open("a") as file:
        file.write("\nmalformed\n")
    whole = prepare("files", raw, tmp_path / "whole")
    monkeypatch.setattr("trainer.data.lines.BLOCK_BYTES", 8)
    monkeypatch.setattr("trainer.data.csv_tables.BATCH_ROWS", 2)
    assert prepare("files", raw, tmp_path / "blocks") == whole
    assert whole.problems["interactions", "malformed row"].first[0].line == 6 + ("csv" in name)
    assert sequences_of(tmp_path / "blocks") == SEQUENCES


def test_two_files_for_one_thing_are_not_guessed_between(raw, tmp_path):
    items_jsonl(raw)
    items_csv(raw)
    with pytest.raises(DataError, match=r"items\.jsonl and items\.csv are both there; keep"):
        prepare("files", raw, tmp_path / "out")


def test_missing_files_name_the_layouts(raw, tmp_path):
    with pytest.raises(DataError, match=r"items\.jsonl .* not there; expected .* sequences\.txt"):
        prepare("files", raw, tmp_path / "out")
    items_jsonl(raw)
    with pytest.raises(DataError, match=r"interactions\.jsonl .* not there; expected"):
        prepare("files", raw, tmp_path / "out")
