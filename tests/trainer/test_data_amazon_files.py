"""The ``amazon`` source: files that are missing, ambiguous, damaged or of different releases."""

import gzip
import json
from pathlib import Path

import pytest

from llmemb.errors import DataError
from trainer.data.prepare import prepare

META = json.dumps({"asin": "B1", "title": "Soap", "category": ["Beauty"]}) + "\n"
LOG = "".join(
    json.dumps({"reviewerID": "U1", "asin": "B1", "unixReviewTime": time}) + "\n"
    for time in range(5)
)
META_FILE, LOG_FILE = "meta_All_Beauty.json.gz", "All_Beauty_5.json.gz"


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "beauty"
    folder.mkdir()
    (folder / META_FILE).write_bytes(gzip.compress(META.encode()))
    (folder / LOG_FILE).write_bytes(gzip.compress(LOG.encode()))
    return folder


def failure(raw: Path) -> str:
    out = raw.parent / "out"
    with pytest.raises(DataError) as caught:
        prepare("amazon", raw, out)
    assert not out.exists()
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 1000
    return message


def test_the_folder_as_it_stands_is_read(raw, tmp_path):
    assert prepare("amazon", raw, tmp_path / "out").kept["interactions"] == 5


def test_a_missing_file_is_named_by_what_it_holds(raw):
    log = (raw / LOG_FILE).read_bytes()
    (raw / LOG_FILE).unlink()
    assert "no file of reviews or ratings is there; expected a category's metadata" in failure(raw)
    (raw / LOG_FILE).write_bytes(log)
    (raw / META_FILE).unlink()
    assert "no file of metadata is there; expected a category's metadata (meta_*" in failure(raw)


def test_several_files_are_not_guessed_between(raw):
    (raw / "ratings.csv").touch()
    message = "more than one file of reviews or ratings (All_Beauty_5.json.gz, ratings.csv); keep"
    assert message in failure(raw)
    (raw / META_FILE.removesuffix(".gz")).write_text(META)
    assert "of metadata (meta_All_Beauty.json, meta_All_Beauty.json.gz); keep" in failure(raw)


def test_hidden_files_and_others_are_not_taken_for_data(raw, tmp_path):
    for name in ("._meta_All_Beauty.json.gz", "notes.txt", "old.zip"):
        (raw / name).write_bytes(b"\xff")
    (raw / "meta_folder.json").mkdir()
    prepare("amazon", raw, tmp_path / "out")


@pytest.mark.parametrize("name", [META_FILE, LOG_FILE])
@pytest.mark.parametrize("damage", ["cut short", "bit flipped", "checksum"])
def test_a_damaged_gzip_file_is_named(raw, name, damage):
    content = (raw / name).read_bytes()
    middle = len(content) // 2
    damaged = {
        "cut short": content[:middle],
        "bit flipped": content[:12] + b"\xff" * 8 + content[20:],
        "checksum": content[:-8] + b"\0" * 8,
    }[damage]
    (raw / name).write_bytes(damaged)
    message = failure(raw)
    assert f"{name}: the gzip file is damaged or cut short (" in message
    assert message.endswith("; download it again")


@pytest.mark.parametrize("name", [META_FILE, LOG_FILE])
def test_the_first_bytes_tell_gzip_not_the_name(raw, tmp_path, name):
    (raw / name).write_bytes(gzip.decompress((raw / name).read_bytes()))
    prepare("amazon", raw, tmp_path / "out")


@pytest.mark.parametrize("name", [META_FILE, LOG_FILE])
def test_gzip_of_text_that_is_not_utf8_is_named_with_line_and_byte(raw, name):
    content = gzip.decompress((raw / name).read_bytes())
    (raw / name).write_bytes(gzip.compress(content + b'{"title": "caf\xe9"}\n'))
    line, byte = content.count(b"\n") + 1, len(content) + 14
    message = failure(raw)
    assert f"{name}:{line}: not UTF-8 at byte {byte} of the file" in message
    assert f"`gunzip -c {name} | iconv -f LATIN1 -t UTF-8`" in message


def test_a_file_without_line_ends_is_not_read_whole(raw, monkeypatch):
    monkeypatch.setattr("trainer.data.lines.BLOCK_BYTES", 100)
    monkeypatch.setattr("trainer.data.lines.LINE_BYTES", 50)
    (raw / META_FILE).write_bytes(gzip.compress(META.encode() + b"x" * 10_000))
    assert f"{META_FILE}:2: a line of more than 50 bytes" in failure(raw)


@pytest.mark.parametrize(
    "meta", ["", "not json\n", '["B1"]\n', '{"asin": "B1", "title": "Soap"}\n', '{"sku": "1"}\n']
)
def test_metadata_of_no_release_names_the_keys_looked_for(raw, meta):
    (raw / META_FILE).write_text(meta)
    message = failure(raw)
    assert f"{META_FILE}:1: not metadata of Amazon products" in message
    assert "parent_asin; also_buy" in message


def test_reviews_of_another_release_name_the_keys_found(raw):
    (raw / LOG_FILE).write_text('{"user_id": "U", "parent_asin": "B1", "timestamp": 1}\n')
    message = failure(raw)
    assert (
        f"{LOG_FILE}:1: no reviewerID and no asin in any row; the keys found are user_id" in message
    )


def test_ratings_with_a_header_of_other_columns_name_them(raw):
    (raw / LOG_FILE).unlink()
    (raw / "All_Beauty.csv").write_text("asin,user,unixReviewTime\nB1,U1,1\n")
    assert "All_Beauty.csv:1: no column reviewerID; the columns are asin, user" in failure(raw)


def test_metadata_and_reviews_that_do_not_belong_together_are_refused(raw):
    (raw / LOG_FILE).write_text(LOG.replace("B1", "B2"))
    assert f"none of its products is in {LOG_FILE}; put the metadata and" in failure(raw)


def test_ratings_in_the_order_of_another_release_are_refused(raw):
    (raw / LOG_FILE).unlink()
    (raw / "ratings_Beauty.csv").write_text("U1,B1,5.0,1\nU1,B1,5.0,2\nU1,B1,5.0,3\n")
    assert "none of its products is in ratings_Beauty.csv" in failure(raw)


def test_reviewed_products_that_are_all_malformed_say_why(raw):
    unreviewed = json.dumps({"asin": "B0", "category": []}) + "\n"
    (raw / META_FILE).write_text(unreviewed + META.replace('"Soap"', "5"))
    message = failure(raw)
    assert f"{META_FILE}:2: no item is left of 2 rows; mend the rows (dropped: 1 malf" in message
    assert "title is of type int, not text" in message


def test_an_empty_log_is_refused(raw):
    (raw / LOG_FILE).write_text("\n")
    assert "none of its products is in" in failure(raw)
