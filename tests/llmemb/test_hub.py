"""``llmemb push`` and ``pull``: a bundle through the Hub and back, whole or not at all."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from scripted_hub import TOKEN, Hub, scripted_hub

from llmemb.bundle import read_bundle, read_manifest


@pytest.fixture
def hub() -> Iterator[Hub]:
    with scripted_hub() as running:
        yield running


def llmemb(hub: Hub, *arguments: object, token: str = TOKEN) -> subprocess.CompletedProcess[str]:
    """Run the command; where the Hub is is read when the Hub's library is imported."""
    return subprocess.run(
        [sys.executable, "-c", "from llmemb.cli import main; main()", *map(str, arguments)],
        env={**os.environ, "HF_ENDPOINT": hub.url, "HF_TOKEN": token},
        capture_output=True,
        text=True,
    )


def refused(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    *progress, line = done.stderr.splitlines()
    assert not any("error:" in one for one in progress)
    return line


def content(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_what_is_pushed_is_what_is_pulled(hub: Hub, tiny_bundle: Path, tmp_path: Path) -> None:
    done = llmemb(hub, "push", tiny_bundle, "shop/films", "--private")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"pushed to {hub.url}/shop/films\n"
    assert hub.private == {"shop/films"}
    out = tmp_path / "bundle"
    done = llmemb(hub, "pull", "shop/films", "--out", out, "--revision", "main")
    assert done.returncode == 0, done.stderr
    assert content(out) == content(tiny_bundle)
    assert read_bundle(out).manifest == read_manifest(tiny_bundle)


def test_what_is_to_be_private_is_not_pushed_where_all_see_it(hub: Hub, tiny_bundle: Path) -> None:
    hub.repositories["shop/films"] = {}
    done = llmemb(hub, "push", tiny_bundle, "shop/films", "--private")
    assert "shop/films is public already" in refused(done)
    assert not hub.repositories["shop/films"]


def test_a_push_replaces_the_bundle_before_it(hub: Hub, tiny_bundle: Path, tmp_path: Path) -> None:
    hub.repositories["shop/films"] = {".gitattributes": b"", "old.safetensors": b"old"}
    assert llmemb(hub, "push", tiny_bundle, "shop/films").returncode == 0
    assert hub.repositories["shop/films"] == {".gitattributes": b"", **content(tiny_bundle)}
    shutil.copytree(tiny_bundle, tmp_path / "bundle")
    (tmp_path / "bundle" / "items.parquet").write_bytes(b"old")
    done = llmemb(hub, "pull", "shop/films", "--out", tmp_path / "bundle")
    assert done.returncode == 0, done.stderr
    assert content(tmp_path / "bundle") == content(tiny_bundle)


def test_a_bundle_that_was_changed_is_neither_pushed_nor_pulled(
    hub: Hub, tiny_bundle: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_bundle, tmp_path / "changed")
    (tmp_path / "changed" / "README.md").write_text("changed")
    done = llmemb(hub, "push", tmp_path / "changed", "shop/films")
    assert "README.md is changed" in refused(done)
    assert not hub.repositories
    hub.repositories["shop/films"] = content(tmp_path / "changed")
    done = llmemb(hub, "pull", "shop/films", "--out", tmp_path / "pulled")
    assert "shop/films is not a whole bundle: README.md is changed" in refused(done)
    del hub.repositories["shop/films"]["README.md"]
    done = llmemb(hub, "pull", "shop/films", "--out", tmp_path / "pulled")
    assert "shop/films is not a whole bundle: README.md is missing" in refused(done)
    assert [path.name for path in tmp_path.iterdir()] == ["changed"]


def test_only_the_bundle_is_pulled(hub: Hub, tiny_bundle: Path, tmp_path: Path) -> None:
    hub.repositories["shop/films"] = {**content(tiny_bundle), "huge.bin": b"huge"}
    done = llmemb(hub, "pull", "shop/films", "--out", tmp_path / "pulled")
    assert done.returncode == 0, done.stderr
    assert sorted(set(hub.downloads)) == sorted(content(tiny_bundle))
    hub.repositories["someone/llm"] = {"model.safetensors": b"huge"}
    done = llmemb(hub, "pull", "someone/llm", "--out", tmp_path / "llm")
    assert "someone/llm has no manifest.json; is it a bundle?" in refused(done)


def test_what_is_no_bundle_is_not_replaced(hub: Hub, tiny_bundle: Path, tmp_path: Path) -> None:
    hub.repositories["shop/films"] = content(tiny_bundle)
    (tmp_path / "thesis").mkdir()
    done = llmemb(hub, "pull", "shop/films", "--out", tmp_path / "thesis")
    assert "is there and is no bundle" in refused(done)
    assert not hub.downloads


def test_what_the_hub_refuses_is_told_in_a_line(
    hub: Hub, tiny_bundle: Path, tmp_path: Path
) -> None:
    out = tmp_path / "pulled"
    assert "401 Invalid username or password.; set HF_TOKEN" in refused(
        llmemb(hub, "push", tiny_bundle, "shop/films", token="")
    )
    assert "is not on the Hub" in refused(llmemb(hub, "pull", "shop/none", "--out", out))
    hub.repositories["shop/films"] = content(tiny_bundle)
    done = llmemb(hub, "pull", "shop/films", "--out", out, "--revision", "v9")
    assert "shop/films has no such revision" in refused(done)
    assert "'films/../x'" in refused(llmemb(hub, "pull", "films/../x", "--out", out))
    away = Hub("http://127.0.0.1:1")
    done = llmemb(away, "push", tiny_bundle, "shop/films")
    assert "shop/films: the Hub cannot be reached" in refused(done)
    assert not out.exists()
