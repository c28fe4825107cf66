"""The whole way on real data with the real LLM, shortened: MovieLens-100K and SmolLM2-135M."""

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from llmemb_client import Client
from ports import free_port
from sentence_transformers import SentenceTransformer

from llmemb.bundle import read_bundle
from trainer.export.export import export

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]


def llmemb(*arguments: object) -> list[str]:
    return [sys.executable, "-c", "from llmemb.cli import main; main()", *map(str, arguments)]


@pytest.fixture(scope="module")
def url(movielens_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = free_port()
    environment = {**os.environ, "LLMEMB_STATE_DIR": str(tmp_path_factory.mktemp("state"))}
    with subprocess.Popen(
        llmemb("serve", movielens_bundle, "--port", port), env=environment
    ) as service:
        url = f"http://127.0.0.1:{port}"
        for _ in range(240):
            assert service.poll() is None, "the service ended while starting"
            try:
                urllib.request.urlopen(f"{url}/health/ready", timeout=1)
                break
            except (urllib.error.URLError, TimeoutError):
                time.sleep(0.25)
        yield url
        service.terminate()


def test_the_bundle_beats_popularity_already(movielens_bundle: Path) -> None:
    metrics = json.loads((movielens_bundle / "manifest.json").read_bytes())["metrics"]
    ours, popularity = (
        metrics[name]["full"]["all"]["NDCG@10"] for name in ("llmemb", "popularity")
    )
    assert ours > popularity > 0


def test_a_film_that_movielens_does_not_know_lands_among_its_like(url: str) -> None:
    body = {
        "attributes": {"title": "Scream 4", "year": 2011, "genres": ["Horror", "Thriller"]},
        "k": 10,
    }
    request = urllib.request.Request(
        f"{url}/items/similar",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    items = json.load(urllib.request.urlopen(request))["items"]
    alike = [item for item in items if {"Horror", "Thriller"} & set(item["attributes"]["genres"])]
    assert len(alike) >= 6, items


def test_the_llm_exported_to_sentence_transformers_gives_the_services_vectors(
    url: str, movielens_bundle: Path, tmp_path: Path
) -> None:
    bundle = read_bundle(movielens_bundle)
    export(bundle, "sentence-transformers", tmp_path / "llm")
    films = bundle.catalogue.attributes[::17]
    with Client(url) as client:
        answer = client.embed(items=films, space="llm", prompt=True)
    ours = answer.numpy().astype(np.float64)
    model = SentenceTransformer(str(tmp_path / "llm"), device="cpu")
    theirs = model.encode([item.prompt for item in answer.data])
    cosines = (ours * theirs).sum(1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)
    assert len(cosines) == 99
    assert cosines.min() >= 0.9999
