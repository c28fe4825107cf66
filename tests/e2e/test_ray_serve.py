"""The service on Ray Serve, by the deployment of docs/ray-serve.md as it stands."""

import importlib
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from ports import free_port
from reader import ROOT, blocks
from tiny_bundle import film

from llmemb.bundle import read_bundle

serve = pytest.importorskip("ray.serve", reason="needs Ray Serve: pip install 'ray[serve]'")
ray = pytest.importorskip("ray")


@pytest.fixture
def client(
    tiny_bundle: Path, redis_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[httpx.Client]:
    page = blocks(ROOT / "docs/ray-serve.md")
    (code,) = (block.code for block in page if block.language == "python")
    (tmp_path / "shop.py").write_text(code)
    monkeypatch.chdir(tmp_path)  # replicas look for shop.py where it was deployed from
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("LLMEMB_BUNDLE", str(tiny_bundle))
    monkeypatch.setenv("LLMEMB_REDIS_URL", f"redis://127.0.0.1:{redis_port}/1")
    monkeypatch.setenv("LLMEMB_OPEN", "true")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    port = free_port()
    ray.init(
        "local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR"
    )
    try:
        serve.start(http_options={"port": port})
        serve.run(importlib.import_module("shop").app)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            yield client
    finally:
        serve.shutdown()
        ray.shutdown()


def test_the_deployment_of_the_page_answers_as_the_service_does(
    client: httpx.Client, tiny_bundle: Path
) -> None:
    bundle = read_bundle(tiny_bundle)
    ready = client.get("/health/ready").json()
    assert (ready["status"], ready["bundle"]) == ("ready", bundle.manifest.bundle)
    answer = client.post("/items/embed", json={"items": [{"attributes": film(5)}]}).json()
    expected = bundle.item_vectors[bundle.catalogue.index["film-5"]].tolist()
    assert answer["data"][0]["embedding"] == pytest.approx(expected, abs=0.01)
    sequence = ["film-5", {"attributes": {"title": "Film that nobody knows"}}]
    answer = client.post("/recommend", json={"sequence": sequence, "k": 5}).json()
    assert len(answer["items"]) == 5
    assert client.get("/items/x/y/z").json()["id"] == "x/y/z"
    assert client.post("/admin/rollback").status_code == 404
    ends = time.monotonic() + 30
    while "\nllmemb_replicas 2.0\n" not in client.get("/metrics").text:
        assert time.monotonic() < ends
        time.sleep(0.1)
