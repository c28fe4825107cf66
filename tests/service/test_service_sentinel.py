"""Failover: a replica takes the place of a Redis that died, and nothing acknowledged is lost."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from redis_topologies import Guarded
from service_setup import MakeSettings, eventually, recommended

from service.app import create_app
from service.redis_servers import connect

NEW = {"title": "Never seen", "genres": ["Drama"]}


@pytest.fixture
def redises(tmp_path: Path) -> Iterator[Guarded]:
    with Guarded(tmp_path) as running:
        yield running


def test_after_a_failover_everything_acknowledged_is_there_and_changes_go_on(
    make_settings: MakeSettings, redises: Guarded
) -> None:
    settings = make_settings(redis_url=redises.url, redis_replicas=1)
    with TestClient(create_app(settings)) as client:

        def put(item_id: str) -> int:
            return client.put(f"/items/{item_id}", json={"attributes": NEW}).status_code

        for i in range(20):
            assert put(f"new-{i}") == 201
        assert client.get("/health/ready").json()["catalogue"] == "durable"
        redises.primary.kill()
        assert "new-7" in recommended(client)  # reads go on
        # Nobody has the changes on a second disk now, and so none is acknowledged.
        eventually(lambda: client.get("/health/ready").json()["catalogue"] == "durable", 30)
        assert put("later") == 503
        assert {f"new-{i}" for i in range(20)} <= recommended(client)
    with TestClient(create_app(make_settings(redis_url=redises.url))) as client:
        assert client.get("/items/new-19").status_code == 200
        assert client.put("/items/later", json={"attributes": NEW}).status_code in (200, 201)


@pytest.mark.parametrize(
    "url",
    [
        "redis+sentinel://",
        "redis+sentinel://host",
        "redis+sentinel:///shop",
        "redis+sentinel://h/s/x",
    ],
)
def test_a_url_of_sentinels_names_them_and_the_primary(url: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        connect(url, 1)
