"""A cluster: keys lie on several servers, move between them, and survive the loss of one."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from redis_topologies import Clustered
from service_setup import MakeSettings, eventually, metric, recommended

from service.app import create_app
from service.redis_servers import connect

NEW = {"title": "Never seen", "genres": ["Drama"]}


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Clustered]:
    with Clustered(tmp_path) as running:
        yield running


def test_nothing_is_lost_when_keys_move_to_another_node(
    make_settings: MakeSettings, nodes: Clustered
) -> None:
    many = [{"attributes": {**NEW, "year": 1900 + i}} for i in range(30)]
    with TestClient(create_app(make_settings(redis_url=nodes.url))) as client:

        def put(item_id: str) -> int:
            return client.put(f"/items/{item_id}", json={"attributes": NEW}).status_code

        assert put("first") == 201
        assert client.get("/health/ready").json()["catalogue"] == "durable"
        client.post("/items/embed", json={"items": many})
        nodes.move_catalogue()
        eventually(lambda: put("moved") in (200, 201))
    # Vectors on every node are found by the next start, and so is the catalogue.
    with TestClient(create_app(make_settings(redis_url=nodes.url))) as client:
        answer = client.post("/items/embed", json={"items": many})
        assert all(one["cached"] for one in answer.json()["data"])
        assert metric(client, 'llmemb_asked_vectors_total{source="redis"}') >= len(many)
        assert {"first", "moved"} <= recommended(client)


def test_a_node_that_dies_is_replaced_by_its_replica(
    make_settings: MakeSettings, nodes: Clustered
) -> None:
    attributes = {"attributes": NEW}
    with TestClient(create_app(make_settings(redis_url=nodes.url, redis_replicas=1))) as client:
        assert client.put("/items/first", json=attributes).status_code == 201
        nodes.holder.kill()
        assert "first" in recommended(client)  # reads go on
        eventually(lambda: client.get("/health/ready").json()["catalogue"] == "durable", 30)
        # The replica has none of its own now, and so nothing more is acknowledged.
        assert client.put("/items/second", json=attributes).status_code == 503
    with TestClient(create_app(make_settings(redis_url=nodes.url))) as client:
        assert client.get("/items/first").status_code == 200
        assert client.put("/items/third", json=attributes).status_code == 201


@pytest.mark.parametrize(
    "url", ["redis+cluster://", "redis+cluster://host/1", "redis+clusters://host", "x+cluster://h"]
)
def test_a_url_of_a_cluster_names_its_hosts(url: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        connect(url, 1)
