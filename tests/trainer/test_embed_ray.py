"""``llmemb embed --engine ray``: the file that one process writes, whoever dies on the way."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from llmemb.bundle import Bundle, read_bundle
from llmemb.errors import LLMEmbError, SettingsError
from trainer import embed, embed_ray
from trainer.data.report import Report
from trainer.embed import embed_items
from trainer.embed_ray import embed_items_on_ray
from trainer.progress import Progress

ray = pytest.importorskip("ray", reason="needs Ray: pip install 'llmemb[scale]'")

PART = 6
PROGRAM = f"""
from llmemb.cli import main
from trainer import embed, embed_ray
embed.PART_ITEMS = {PART}
embed_ray.READ_PARTS = 1
main()
"""


@pytest.fixture(scope="module", autouse=True)
def _cluster() -> Iterator[None]:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(
        "local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR"
    )
    yield
    ray.shutdown()


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embed, "PART_ITEMS", PART)
    monkeypatch.setattr(embed_ray, "READ_PARTS", 1)


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return read_bundle(tiny_bundle)


def films(count: int, start: int = 0) -> list[dict]:
    return [
        {"id": f"item {i}", "title": f"Film {i % 13}", "year": 1990 + i % 7}
        for i in range(start, start + count)
    ]


def write_items(path: Path, items: list[dict], group: int = PART) -> Path:
    pq.write_table(pa.Table.from_pylist(items), path, row_group_size=group)
    return path


def run(bundle: Bundle, items: Path | str, out: Path | str, workers: str | None = "2") -> Report:
    return embed_items_on_ray(
        bundle,
        str(items),
        str(out),
        space="srs",
        base_model=None,
        precision="auto",
        workers=workers,
        address=None,
        progress=Progress(Console(quiet=True)),
    )


def run_here(bundle: Bundle, items: Path, out: Path) -> Report:
    progress = Progress(Console(quiet=True))
    return embed_items(
        bundle, items, out, space="srs", base_model=None, precision="auto", progress=progress
    )


def parts_of(out: Path) -> list[Path]:
    return sorted(out.with_name(f"{out.name}.work").rglob("part-*.parquet"))


def until(found: Callable[[], object], seconds: float = 120) -> None:
    ends = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < ends
        time.sleep(0.01)


def workers_of(pid: int) -> list[psutil.Process]:
    found = []
    for process in psutil.Process(pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if "(Worker)" in "".join(process.cmdline()):
                found.append(process)
    return found


def test_the_file_is_the_one_that_a_single_process_writes(bundle: Bundle, tmp_path: Path) -> None:
    items = write_items(tmp_path / "items.parquet", films(40))
    report = run(bundle, items, tmp_path / "ray.parquet")
    here = run_here(bundle, items, tmp_path / "here.parquet")
    assert report.to_json() == here.to_json()
    assert pq.read_table(tmp_path / "ray.parquet").equals(pq.read_table(tmp_path / "here.parquet"))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "here.parquet",
        "items.parquet",
        "ray.parquet",
    ]


def test_a_folder_is_read_in_the_order_of_its_names_on_any_file_system(
    bundle: Bundle, tmp_path: Path
) -> None:
    folder = tmp_path / "items"
    folder.mkdir()
    write_items(folder / "b.parquet", films(7, 30))
    write_items(folder / "a.parquet", films(30))
    (folder / "_SUCCESS").touch()
    out = tmp_path / "vectors.parquet"
    run(bundle, f"fsspec+file://{folder}", f"fsspec+file://{out}", workers=None)
    assert pq.read_table(out)["id"].to_pylist() == [f"item {i}" for i in range(37)]
    assert not out.with_name("vectors.parquet.work").exists()


def test_a_worker_that_is_killed_costs_no_item(bundle: Bundle, tmp_path: Path) -> None:
    items = write_items(tmp_path / "items.parquet", films(600))
    out = tmp_path / "vectors.parquet"
    killed: list[int] = []

    def kill() -> None:
        until(lambda: len(parts_of(out)) > 5)
        victim = workers_of(os.getpid())[0]
        victim.kill()
        killed.append(victim.pid)

    killer = threading.Thread(target=kill)
    killer.start()
    report = run(bundle, items, out)
    killer.join()
    assert killed
    assert report.kept == {"items": 600}
    assert pq.read_table(out)["id"].to_pylist() == [f"item {i}" for i in range(600)]
    run_here(bundle, items, tmp_path / "here.parquet")
    assert pq.read_table(out).equals(pq.read_table(tmp_path / "here.parquet"))


def test_a_run_that_was_killed_goes_on_where_it_was(bundle: Bundle, tmp_path: Path) -> None:
    items = write_items(tmp_path / "items.parquet", films(600))
    out = tmp_path / "vectors.parquet"
    command = [sys.executable, "-c", PROGRAM, "embed", str(bundle.path), str(items)]
    options = ["--out", str(out), "--engine", "ray", "--workers", "1"]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    with subprocess.Popen([*command, *options], env=environment, start_new_session=True) as first:
        until(lambda: len(parts_of(out)) > 5 or first.poll() is not None)
        workers = workers_of(first.pid)
        first.kill()
    assert first.returncode == -signal.SIGKILL
    assert not out.exists()
    assert workers
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert not alive
    done = parts_of(out)
    known = pq.read_table(done[2])
    vectors = pa.FixedSizeListArray.from_arrays(
        pa.array(np.zeros(len(known) * bundle.manifest.srs.width, np.float32)),
        bundle.manifest.srs.width,
    )
    pq.write_table(known.set_column(1, "vector", vectors), done[2])  # to be known again by
    done[1].write_bytes(done[1].read_bytes()[:-9])
    report = run(bundle, items, out)
    assert report.kept == {"items": 600}
    found = pq.read_table(out)
    assert found["id"].to_pylist() == [f"item {i}" for i in range(600)]
    empty = [not any(vector) for vector in found["vector"].to_pylist()]
    kept = set(known["id"].to_pylist())
    assert [i in kept for i in found["id"].to_pylist()] == empty


def test_rows_that_cannot_be_used_are_told_as_by_a_single_process(
    bundle: Bundle, tmp_path: Path
) -> None:
    rows = films(40)
    rows[0]["id"], rows[9]["id"], rows[39]["id"] = None, "", ""
    rows[20] |= {"title": None, "year": None}
    rows[30] = rows[3]  # twice
    items = write_items(tmp_path / "items.parquet", rows, group=10)
    report = run(bundle, items, tmp_path / "ray.parquet")
    here = run_here(bundle, items, tmp_path / "here.parquet")
    assert report.to_json() == here.to_json()
    assert "items.parquet:40" in json.dumps(report.to_json())
    found, expected = (pq.read_table(tmp_path / f"{name}.parquet") for name in ("ray", "here"))
    assert found["id"].to_pylist().count("item 3") == 2
    assert found.schema.equals(expected.schema)
    assert found.drop(["vector"]).equals(expected.drop(["vector"]))
    # Other items are computed together, which moves the last bits.
    a, b = (np.stack(table["vector"].to_numpy()) for table in (found, expected))
    cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert cosines == pytest.approx(1, abs=1e-3)


def damaged(path: Path) -> None:
    """Write a file whose footer tells nothing of the damage in its middle."""
    rows = [{"id": f"{i}", "title": os.urandom(200).hex()} for i in range(600)]
    write_items(path, rows, group=200)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 20_000] = b"\xff" * 20_000
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("items", "out", "reason"),
    [
        ("items.jsonl", "vectors.parquet", "reads Parquet"),
        ("items.parquet", "vectors.npy", "let the name end in .parquet"),
        ("missing.parquet", "vectors.parquet", "is not there"),
        ("nowhere://x/items.parquet", "vectors.parquet", "not a place that can be used"),
        ("folder", "vectors.parquet", "no .parquet file in this folder"),
        ("empty.parquet", "vectors.parquet", "no item to embed"),
        ("unusable.parquet", "vectors.parquet", "no item to embed .*unusable.parquet:1"),
        ("broken.parquet", "vectors.parquet", "broken.parquet: not a Parquet file"),
        ("nameless.parquet", "vectors.parquet", "no column id"),
        ("damaged.parquet", "vectors.parquet", "damaged.parquet: not a Parquet file"),
    ],
)
def test_a_wrong_file_is_named_in_one_line(
    bundle: Bundle, tmp_path: Path, items: str, out: str, reason: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "items.jsonl").write_text("{}")
    (tmp_path / "broken.parquet").write_text("no")
    write_items(tmp_path / "items.parquet", films(3))
    pq.write_table(pa.table({"id": pa.array([], pa.string())}), tmp_path / "empty.parquet")
    write_items(tmp_path / "unusable.parquet", [{"id": ""}] * 9)
    write_items(tmp_path / "nameless.parquet", [{"title": "x"}])
    damaged(tmp_path / "damaged.parquet")
    given = items if "://" in items else tmp_path / items
    with pytest.raises(LLMEmbError, match=reason) as error:
        run(bundle, given, tmp_path / out)
    assert "\n" not in str(error.value)
    assert not (tmp_path / out).exists()


@pytest.mark.parametrize("workers", ["0", "many", "3:2", "1:2:3", "-1"])
def test_numbers_of_workers_that_are_none_are_refused(
    bundle: Bundle, tmp_path: Path, workers: str
) -> None:
    items = write_items(tmp_path / "items.parquet", films(3))
    with pytest.raises(SettingsError, match="give a number or MIN:MAX"):
        run(bundle, items, tmp_path / "vectors.parquet", workers)


def test_what_a_worker_finds_wrong_is_told_in_one_line(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = read_bundle(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    (bundle.path / "README.md").write_text("changed")
    items = write_items(tmp_path / "items.parquet", films(40))
    with pytest.raises(LLMEmbError, match=r"README\.md is changed") as error:
        run(bundle, items, tmp_path / "vectors.parquet")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "vectors.parquet").exists()


def test_without_ray_the_way_to_it_is_named(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embed_ray, "find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=r"pip install 'llmemb\[scale\]'"):
        run(bundle, tmp_path / "items.parquet", tmp_path / "vectors.parquet")


def test_a_place_elsewhere_needs_the_engine(bundle: Bundle, tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, "embed", str(bundle.path), "s3://shop/items.parquet"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "vectors.parquet")], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.strip().splitlines() == [
        "error: --workers, and URIs such as s3://bucket/items, need --engine ray"
    ]
