"""The quality report on a shop small enough to measure in seconds."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from tiny import make_tiny_llm

ROOT = Path(__file__).parents[2]
ROWS = ["popularity", "cooccurrence", "id/sasrec/sampled", "tfidf/sasrec", "raw/sasrec"]
ROWS += ["tfidf-raw/sasrec", "llminit/sasrec", "default/sasrec", "cold/default/sasrec"]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Users who walk through a genre of a catalogue from story to story."""
    folder = tmp_path_factory.mktemp("shop")
    items = [{"id": str(i), "title": f"Story {i}", "genre": f"g{i % 3}"} for i in range(60)]
    (folder / "items.jsonl").write_text("\n".join(json.dumps(item) for item in items))
    rng = np.random.default_rng(0)
    walks = [[str((start + 3 * step) % 60) for step in range(6)] for start in rng.permutation(60)]
    lines = [" ".join([f"user{u}", *walk]) for u, walk in enumerate(walks)]
    (folder / "sequences.txt").write_text("\n".join(lines))
    command = ["data", "prepare", "files", folder, "--out", folder / "small"]
    subprocess.run(
        [sys.executable, "-c", "from llmemb.cli import main; main()", *map(str, command)],
        check=True,
        capture_output=True,
    )
    return folder / "small"


def measure(shop: Path, base: Path) -> tuple[dict, str]:
    script = ROOT / "benchmarks" / "quality.py"
    arguments = [
        shop,
        "--base-model",
        base,
        "--seeds",
        2,
        "--results",
        shop.parent,
        "--only",
        *ROWS,
    ]
    done = subprocess.run(
        [sys.executable, str(script), *map(str, arguments)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(Path(done.stdout.strip()).read_bytes()), done.stderr


def test_every_kind_of_row_is_measured_once_and_kept(
    shop: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    base = make_tiny_llm(tmp_path_factory.mktemp("llm"))
    report, log = measure(shop, base)
    # The LLM as it is and tuned, on all training items and on all but the held-out ones.
    assert log.count("scft: started") == 4
    assert set(report["rows"]) == set(ROWS)
    for name, row in report["rows"].items():
        metric = row["full"]["all"]["NDCG@10"]
        assert metric["mean"] == pytest.approx(np.mean(metric["seeds"]), abs=1e-5)
        assert len(metric["seeds"]) == len(row["epochs"]) == (1 if name in ROWS[:2] else 2)
    assert report["rows"]["cold/default/sasrec"]["full"]["cold"]["n"] > 0
    assert len(report["must_show"]) > 5
    assert all({"line", "value", "target", "holds"} == set(one) for one in report["must_show"])
    shutil.rmtree(shop.with_name("small.quality"))
    again, log = measure(shop, base)
    assert "started" not in log
    assert again["rows"] == report["rows"]
    places = load_file(next(shop.parent.glob("quality-*/map.safetensors")))
    assert all(places[space].shape == (60, 2) for space in ("llm", "scft", "rat"))


def test_the_bootstrap_finds_a_difference_only_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from quality_promises import paired_bootstrap

    rng = np.random.default_rng(0)
    worse = rng.random(2000)
    assert paired_bootstrap(worse + rng.normal(0.02, 0.1, 2000), worse) < 0.01
    assert paired_bootstrap(worse + rng.normal(-0.02, 0.1, 2000), worse) > 0.99
    assert 0.05 < paired_bootstrap(rng.permutation(worse), worse) < 0.95


def test_a_map_of_items_without_categories_is_coloured_by_brand(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from quality_map import item_colours

    items = [{"categories": [], "brand": "3M"}, {"title": "a bolt"}, {"brand": "Hillman"}]
    assert item_colours(items).tolist() == ["3M", "", "Hillman"]
    items[1]["categories"] = [["Fasteners", "Bolts"]]
    assert item_colours(items).tolist() == ["", "Fasteners", ""]
    assert item_colours([{"title": "a bolt"}]).tolist() == [""]
