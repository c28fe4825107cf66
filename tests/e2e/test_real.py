"""The whole way on real data with the real LLM, shortened: MovieLens-100K and SmolLM2-135M."""

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DATA = ROOT / "data" / "ml-100k"
SHORT = ["--set=scft.epochs=0.1", "--set=collaborative.epochs=2", "--set=rat.epochs=3"]

pytestmark = [
    pytest.mark.real,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        not (DATA / "dataset.json").is_file(),
        reason="data/ml-100k is not prepared (`make test` prepares it)",
    ),
]


def llmemb(*arguments: object) -> list[str]:
    return [sys.executable, "-c", "from llmemb.cli import main; main()", *map(str, arguments)]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("real") / "ml-100k"
    command = llmemb("train", DATA, "--out", out, "--preset", "quick", *SHORT)
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def url(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {**os.environ, "LLMEMB_STATE_DIR": str(tmp_path_factory.mktemp("state"))}
    with subprocess.Popen(llmemb("serve", bundle, "--port", port), env=environment) as service:
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


def test_the_bundle_beats_popularity_already(bundle: Path) -> None:
    metrics = json.loads((bundle / "manifest.json").read_bytes())["metrics"]
    ours, popularity = (
        metrics[name]["full"]["all"]["NDCG@10"] for name in ("llmemb", "popularity")
    )
    assert ours > popularity > 0


def readme_curls() -> list[str]:
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    return [block for block in blocks if "curl" in block]


@pytest.mark.parametrize("block", readme_curls())
def test_the_readmes_curl_lines_work_as_they_stand(url: str, block: str) -> None:
    pasted = block.replace("http://127.0.0.1:8000", url)
    shown = subprocess.run(["bash", "-ec", pasted], capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    decoder, text, answers = json.JSONDecoder(), shown.stdout, []
    while text:
        answer, end = decoder.raw_decode(text)
        answers.append(answer)
        text = text[end:].strip()
    assert len(answers) == block.count("curl")
    for answer in answers:
        assert "status" not in answer, answer  # a problem detail
        if "items" in answer:
            assert len(answer["items"]) == 5


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
