"""``llmemb embed``: a vector for every item of a file, in its order, whatever happens on the way."""

import json
from pathlib import Path

import faiss
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from tiny_bundle import PROMPT, WIDTH

from llmemb.bundle import Bundle, read_bundle
from llmemb.encoder import Encoder
from llmemb.errors import DataError
from trainer import embed
from trainer.data.report import Report
from trainer.embed import embed_items
from trainer.progress import Progress

ITEMS = [{"id": f"item {i}", "title": f"Film {i % 13}", "year": 1990 + i % 7} for i in range(40)]


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return read_bundle(tiny_bundle)


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embed, "PART_ITEMS", 6)


def write_lines(path: Path, items: list[dict]) -> Path:
    path.write_text("".join(f"{json.dumps(item)}\n" for item in items))
    return path


def run(bundle: Bundle, items: Path, out: Path, space: str = "srs") -> Report:
    progress = Progress(Console(quiet=True))
    return embed_items(
        bundle,
        items,
        out,
        space=space,
        base_model=None,
        precision="auto",
        progress=progress,
    )


def prompts(items: list[dict]) -> list[str]:
    return [PROMPT.render({k: v for k, v in item.items() if k != "id"}) for item in items]


@pytest.mark.parametrize("space", ["srs", "llm"])
def test_every_item_gets_its_vector(bundle: Bundle, tmp_path: Path, space: str) -> None:
    out = tmp_path / "vectors.parquet"
    report = run(bundle, write_lines(tmp_path / "items.jsonl", ITEMS), out, space)
    assert not report.problems
    assert report.kept == {"items": 40}
    found = pl.read_parquet(out)
    assert found["id"].to_list() == [item["id"] for item in ITEMS]
    assert not found["truncated"].any()
    vectors = np.stack(found["vector"].to_numpy())
    llm = bundle.load_encoder().encode(prompts(ITEMS))
    expected = bundle.adapt(llm) if space == "srs" else llm.astype(np.float32)
    assert vectors.shape == expected.shape
    cosines = (vectors * expected).sum(1) / np.linalg.norm(vectors, axis=1)
    assert cosines / np.linalg.norm(expected, axis=1) == pytest.approx(1, abs=2e-3)
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    assert index.ntotal == 40
    assert not (tmp_path / "vectors.parquet.work").exists()


def test_csv_and_parquet_are_read_as_the_lines_are(bundle: Bundle, tmp_path: Path) -> None:
    frame = pl.DataFrame(ITEMS)
    frame.write_csv(tmp_path / "items.csv")
    frame.write_parquet(tmp_path / "items.parquet")
    write_lines(tmp_path / "items.jsonl", ITEMS)
    found = []
    for suffix in ("jsonl", "csv", "parquet"):
        out = tmp_path / f"{suffix}.parquet"
        run(bundle, tmp_path / f"items.{suffix}", out)
        found.append(pq.read_table(out))
    assert found[0].equals(found[1])
    assert found[0].equals(found[2])
    assert found[0].schema.field("vector").type == pa.list_(pa.float32(), WIDTH)


@pytest.mark.parametrize("killed_at", [0, 3, 6])
def test_a_run_that_was_killed_goes_on_where_it_was(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_at: int
) -> None:
    items = write_lines(tmp_path / "items.jsonl", ITEMS)
    run(bundle, items, tmp_path / "whole.parquet")
    calls: list[int] = []
    encode = Encoder.encode_tokens

    def counted(encoder: Encoder, tokens: list) -> np.ndarray:
        if len(calls) == killed_at and not (tmp_path / "again").exists():
            (tmp_path / "again").touch()
            raise KeyboardInterrupt
        calls.append(len(tokens))
        return encode(encoder, tokens)

    monkeypatch.setattr(Encoder, "encode_tokens", counted)
    out = tmp_path / "vectors.parquet"
    with pytest.raises(KeyboardInterrupt):
        run(bundle, items, out)
    assert not out.exists()
    run(bundle, items, out)
    assert len(calls) == 7  # 40 items in parts of 6, none of them twice
    assert pq.read_table(out).equals(pq.read_table(tmp_path / "whole.parquet"))


def test_other_items_start_anew(bundle: Bundle, tmp_path: Path) -> None:
    items = write_lines(tmp_path / "items.jsonl", [*ITEMS, {"id": 3.5}])
    out = tmp_path / "vectors.parquet"
    run(bundle, items, out)
    write_lines(items, ITEMS[:5])
    run(bundle, items, out)
    assert pq.read_table(out)["id"].to_pylist() == [item["id"] for item in ITEMS[:5]]


def test_equal_items_are_computed_once(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embed, "PART_ITEMS", 100)
    seen: list[int] = []
    encode = Encoder.encode_tokens

    def counted(encoder: Encoder, tokens: list) -> np.ndarray:
        seen.append(len(tokens))
        return encode(encoder, tokens)

    monkeypatch.setattr(Encoder, "encode_tokens", counted)
    twice = [*ITEMS, *({**item, "id": f"again {item['id']}"} for item in ITEMS)]
    out = tmp_path / "vectors.parquet"
    run(bundle, write_lines(tmp_path / "items.jsonl", twice), out)
    assert seen == [len(set(prompts(ITEMS)))]
    vectors = np.stack(pl.read_parquet(out)["vector"].to_numpy())
    assert np.array_equal(vectors[:40], vectors[40:])


def test_rows_that_cannot_be_used_are_told(bundle: Bundle, tmp_path: Path) -> None:
    lines = [
        '{"id": "a", "title": "A"}',
        "not json",
        '{"title": "nameless"}',
        '{"id": "", "title": "B"}',
        '{"id": "c", "title": ' + "[" * 30 + '"x"' + "]" * 30 + "}",
        '{"id": "d"}',
        '{"id": "e", "title": "' + "long " * 900 + '", "plot": "' + "word " * 900 + '"}',
    ]
    (tmp_path / "items.jsonl").write_text("\n".join(lines))
    out = tmp_path / "vectors.parquet"
    report = run(bundle, tmp_path / "items.jsonl", out)
    assert pq.read_table(out)["id"].to_pylist() == ["a", "d", "e"]
    assert report.read("items") == 7
    assert {kind: problem.count for (_, kind), problem in report.problems.items()} == {
        "malformed row": 1,
        "item without an id": 1,
        "refused item": 2,
        "item without attributes": 1,
    }


@pytest.mark.parametrize(
    ("items", "out", "reason"),
    [
        ("items.jsonl", "vectors.npy", "let the name end in .parquet"),
        ("items.txt", "vectors.parquet", "ends in .jsonl, .csv, .parquet"),
        ("missing.csv", "vectors.parquet", "is not there"),
        ("empty.jsonl", "vectors.parquet", "no item to embed"),
        ("broken.parquet", "vectors.parquet", "not a Parquet file"),
        ("nameless.csv", "vectors.parquet", "no column id"),
    ],
)
def test_a_wrong_file_is_named(
    bundle: Bundle, tmp_path: Path, items: str, out: str, reason: str
) -> None:
    for name, text in {
        "items.jsonl": "{}",
        "items.txt": "",
        "empty.jsonl": "",
        "broken.parquet": "no",
        "nameless.csv": "title\nx\n",
    }.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=reason):
        run(bundle, tmp_path / items, tmp_path / out)
    assert not (tmp_path / out).exists()
