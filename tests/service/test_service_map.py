"""The map of the catalogue, and what else people are shown of items."""

import base64
from pathlib import Path
from urllib.parse import quote

import numpy as np
from fastapi.testclient import TestClient
from tiny_bundle import FILMS, film, film_id

from llmemb.bundle import read_bundle


def test_the_map_has_a_place_for_every_item_of_the_bundle(
    client: TestClient, tiny_bundle: Path
) -> None:
    answer = client.get("/bundle/map").json()
    assert answer["ids"] == [film_id(i) for i in range(FILMS)]
    places = np.frombuffer(base64.b64decode(answer["places"]), "<f4").reshape(-1, 2)
    np.testing.assert_array_equal(places, read_bundle(tiny_bundle).places)
    assert len(answer["popularity"]) == FILMS
    assert answer["categories"] is None


def test_items_can_be_told_apart_by_an_attribute(client: TestClient) -> None:
    found = client.get("/bundle/map", params={"attribute": "genres"}).json()["categories"]
    labels = [found["values"][place] for place in found["of"]]
    assert labels == [film(i)["genres"][0] for i in range(FILMS)]


def test_values_that_are_not_among_the_most_frequent_are_not_told_apart(client: TestClient) -> None:
    found = client.get("/bundle/map", params={"attribute": "title"}).json()["categories"]
    assert len(found["values"]) == 12
    assert sum(place == -1 for place in found["of"]) == FILMS - 12


def test_an_attribute_that_no_item_has_is_refused(client: TestClient) -> None:
    answer = client.get("/bundle/map", params={"attribute": "colour"})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "attribute"


def test_recommendations_tell_of_their_items_where_asked(client: TestClient) -> None:
    body = {"sequence": ["film-7"], "k": 3}
    plain = client.post("/recommend", json=body).json()["items"]
    assert all("item" not in one for one in plain)
    told = client.post("/recommend", json=body | {"details": True}).json()["items"]
    assert [one["id"] for one in told] == [one["id"] for one in plain]
    for one in told:
        assert one["item"] == client.get(f"/items/{quote(one['id'])}").json()
        assert one["item"]["kind"] in ("head", "tail", "cold")


def test_the_prompt_is_told_where_asked(client: TestClient) -> None:
    body = {"items": [{"attributes": {"title": "Heat", "votes": 7}}]}
    (plain,) = client.post("/items/embed", json=body).json()["data"]
    assert "prompt" not in plain
    (told,) = client.post("/items/embed", json=body | {"prompt": True}).json()["data"]
    assert "Heat" in told["prompt"]
    assert "votes" not in told["prompt"]
