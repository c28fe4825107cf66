"""Reload: another bundle is put to work while requests come in, or refused with the reason."""

import gc
import json
import shutil
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from safetensors.numpy import save_file
from service_setup import MakeSettings, eventually
from tiny_bundle import FILMS, make_tiny_bundle, reseal

from llmemb.bundle import read_bundle, read_manifest
from service.app import create_app

NEW = {"title": "Never seen", "genres": ["Drama"]}


@pytest.fixture
def folder(tiny_bundle: Path, tmp_path: Path) -> Path:
    """Bundles side by side: ``current``, ``other``, and ``broken``, a byte of which is changed."""
    shutil.copytree(tiny_bundle, tmp_path / "current")
    other = make_tiny_bundle(tmp_path / "made", residuals=True)
    shutil.copytree(other, tmp_path / "other")
    shutil.copytree(other, tmp_path / "broken")
    vectors = tmp_path / "broken" / "llm_vectors.safetensors"
    data = bytearray(vectors.read_bytes())
    data[-1] ^= 1
    vectors.write_bytes(data)
    return tmp_path


@pytest.fixture
def client(make_settings: MakeSettings, folder: Path) -> Iterator[TestClient]:
    app = create_app(make_settings(bundle=folder / "current"))
    with TestClient(app, raise_server_exceptions=False) as running:
        yield running


def reload(client: TestClient, name: str | None = None) -> Any:
    return client.post("/admin/reload", json={} if name is None else {"bundle": name})


def bundle_id(folder: Path, name: str) -> str:
    return read_manifest(folder / name).bundle


def scores(answer: dict[str, Any]) -> dict[str, float]:
    return {one["id"]: one["score"] for one in answer["items"]}


def with_metrics(bundle: Path, hit_rate: float) -> None:
    """Give a bundle a metric, sealed as its trainer would."""
    reseal(bundle, metrics={"llmemb": {"full": {"all": {"HR@10": hit_rate}}}})


def test_requests_are_answered_all_the_while_each_from_one_bundle(
    client: TestClient, folder: Path
) -> None:
    asked = {"sequence": ["film-4", "film-8"], "k": FILMS}
    client.put("/items/new", json={"attributes": NEW})
    before = client.post("/recommend", json=asked).json()
    answers: list[Any] = []
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            answers.append(client.post("/recommend", json=asked))

    askers = [threading.Thread(target=ask) for _ in range(3)]
    for asker in askers:
        asker.start()
    changed = reload(client, "other")
    after = client.post("/recommend", json=asked).json()
    done.set()
    for asker in askers:
        asker.join()
    assert changed.status_code == 200, changed.text
    assert changed.json()["before"] == before["bundle"] == bundle_id(folder, "current")
    assert changed.json()["bundle"] == after["bundle"] == bundle_id(folder, "other")
    assert {one.status_code for one in answers} == {200}
    expected = {one["bundle"]: scores(one) for one in (before, after)}
    assert list(expected[before["bundle"]]) != list(expected[after["bundle"]])
    for answer in answers:
        found = answer.json()
        assert scores(found) == pytest.approx(expected[found["bundle"]], abs=1e-5)


def test_the_live_catalogue_comes_along(client: TestClient, folder: Path) -> None:
    client.put("/items/new", json={"attributes": NEW})
    client.delete("/items/film-7")
    assert reload(client, "other").status_code == 200
    found = client.post("/recommend", json={"sequence": ["film-4"], "k": 1000}).json()["items"]
    ids = {one["id"] for one in found}
    assert "new" in ids
    assert "film-7" not in ids
    client.put("/items/later", json={"attributes": NEW})
    assert client.post("/admin/rollback").json()["bundle"] == bundle_id(folder, "current")

    def followed() -> bool:
        answer = client.post("/recommend", json={"sequence": ["film-4"], "k": 1000}).json()
        return "later" in {one["id"] for one in answer["items"]}

    eventually(followed)
    assert client.post("/admin/rollback").json()["bundle"] == bundle_id(folder, "other")


def test_the_same_folder_is_read_again(client: TestClient, folder: Path) -> None:
    shutil.rmtree(folder / "current")
    shutil.copytree(folder / "other", folder / "current")
    assert reload(client).json()["bundle"] == bundle_id(folder, "other")
    assert reload(client).status_code == 200  # the first one is let go of


def test_a_replaced_bundle_is_let_go_of_without_the_garbage_collector(
    make_settings: MakeSettings, folder: Path
) -> None:
    settings = make_settings(bundle=folder / "current", deadline_seconds=0.1)
    with TestClient(create_app(settings)) as client:
        serving = client.app.state.served.serving
        client.put("/items/new", json={"attributes": NEW})
        parts = (serving.bundle, serving.embedder, serving.embedder._engine, serving.live.items)
        left = {type(part).__name__: weakref.ref(part) for part in parts}
        del serving, parts
        gc.disable()
        try:
            assert reload(client).status_code == 200
            assert reload(client).status_code == 200
            eventually(lambda: not [name for name, part in left.items() if part() is not None])
        finally:
            gc.enable()


def test_a_broken_bundle_is_refused_with_the_reason(client: TestClient, folder: Path) -> None:
    for name, reason in (("broken", "llm_vectors.safetensors is changed"), ("none", "missing")):
        answer = reload(client, name)
        assert answer.status_code == 409
        assert reason in answer.json()["detail"]
    # Whole, but its vectors are not its model's.
    made = read_bundle(folder / "other")
    swapped = made.llm_vectors[::-1].copy()
    path = folder / "other" / "llm_vectors.safetensors"
    save_file({"vectors": swapped}, path)
    reseal(folder / "other")
    answer = reload(client, "other")
    assert answer.status_code == 409
    assert "the model does not give the vectors" in answer.json()["detail"]
    assert client.get("/bundle").json()["manifest"]["bundle"] == bundle_id(folder, "current")
    assert client.post("/admin/rollback").status_code == 409


def test_a_bundle_of_another_width_is_put_to_work_whole(
    client: TestClient, folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(make_tiny_bundle(tmp_path / "wide", width=24), folder / "wider")
    client.put("/items/new", json={"attributes": NEW})
    assert reload(client, "wider").status_code == 200
    embedded = client.post("/items/embed", json={"items": [{"attributes": NEW}]}).json()
    assert (embedded["bundle"], embedded["dimensions"]) == (bundle_id(folder, "wider"), 24)
    found = client.post("/recommend", json={"sequence": ["new"], "k": 1000}).json()["items"]
    assert len(found) == FILMS


def test_a_bundle_whose_parts_are_of_other_widths_is_refused(
    client: TestClient, folder: Path, tmp_path: Path
) -> None:
    wide = make_tiny_bundle(tmp_path / "wide", width=24)
    path = folder / "other" / "item_vectors.safetensors"
    shutil.copy(wide / path.name, path)
    reseal(folder / "other")
    answer = reload(client, "other")
    assert answer.status_code == 409
    assert "item_vectors.safetensors" in answer.json()["detail"]


def test_a_worse_bundle_is_refused(make_settings: MakeSettings, folder: Path) -> None:
    with_metrics(folder / "current", 0.10)
    with_metrics(folder / "other", 0.08)
    with TestClient(create_app(make_settings(bundle=folder / "current"))) as client:
        answer = reload(client, "other")
        assert answer.status_code == 409
        assert "0.0800" in answer.json()["detail"]
        with_metrics(folder / "other", 0.095)
        assert reload(client, "other").status_code == 200


@pytest.mark.parametrize("name", ["../other", "", ".hidden", "a/b", "x" * 200])
def test_a_name_that_leads_elsewhere_is_refused(client: TestClient, name: str) -> None:
    answer = reload(client, name)
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "bundle")


def test_others_than_this_machine_cannot_reload(make_settings: MakeSettings) -> None:
    for host, admin, status in (
        ("0.0.0.0", None, 404),
        ("0.0.0.0", True, 503),
        ("127.0.0.1", False, 404),
        ("::1", None, 503),
    ):
        app = create_app(make_settings(host=host, admin=admin, open=True))
        # Not started: an answer that nothing is loaded shows that the route is there.
        answer = TestClient(app).post("/admin/reload", content=json.dumps({}))
        assert answer.status_code in ({404, 405} if status == 404 else {status, 422})
