"""Recommendations: exact against the backbone called directly, always k items while k are eligible."""

import asyncio
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from tiny_bundle import FILMS, MAX_LENGTH, TINY_REPEAT_BIAS, film, film_id

from llmemb.bundle import Bundle, read_bundle
from service.telemetry import Metrics
from service.user_vectors import UserVectors


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return read_bundle(tiny_bundle)


def recommend(client: TestClient, sequence: list, **fields: object) -> dict:
    answer = client.post("/recommend", json={"sequence": sequence, **fields})
    assert answer.status_code == 200, answer.text
    return answer.json()


def ids(answer: dict) -> list[str]:
    return [one["id"] for one in answer["items"]]


def scores(bundle: Bundle, vectors: np.ndarray, seen: Sequence[int] = ()) -> np.ndarray:
    """Score every item after a sequence of item vectors, with nothing of the service in between."""
    with torch.inference_mode():
        user = bundle.backbone.user_vectors(
            torch.from_numpy(vectors)[None], torch.tensor([len(vectors)])
        )
    found = bundle.item_vectors @ user[0].numpy()
    found[list(seen)] += bundle.backbone.repeat_bias.item()
    return found


def test_scores_are_the_backbones(client: TestClient, bundle: Bundle) -> None:
    expected = scores(bundle, bundle.item_vectors[[4, 8, 15]])
    answer = recommend(client, ["film-4", "film-8", "film-15"], k=FILMS)
    order = [i for i in np.argsort(-expected) if i not in (4, 8, 15)]
    assert ids(answer) == [film_id(i) for i in order]
    assert [one["score"] for one in answer["items"]] == pytest.approx(
        expected[order].tolist(), abs=1e-4
    )
    assert {one["source"] for one in answer["items"]} == {"model"}
    assert answer["unknown"] == []
    assert answer["bundle"] == bundle.manifest.bundle


@pytest.mark.anyio
async def test_user_vectors_of_concurrent_requests_equal_the_backbones(bundle: Bundle) -> None:
    sequences = [bundle.item_vectors[i : i + 1 + i % MAX_LENGTH] for i in range(30)]
    with ThreadPoolExecutor(1) as executor:
        users = UserVectors(bundle.backbone, executor=executor, metrics=Metrics())
        found = await asyncio.gather(*map(users.of, sequences))
        alone = [await users.of(one) for one in sequences]
    for sequence, user, same in zip(sequences, found, alone, strict=True):
        with torch.inference_mode():
            direct = bundle.backbone.user_vectors(
                torch.from_numpy(sequence)[None], torch.tensor([len(sequence)])
            )
        assert np.abs(user - direct[0].numpy()).max() < 1e-5
        assert np.abs(same - direct[0].numpy()).max() < 1e-5


def test_only_the_most_recent_items_count(client: TestClient) -> None:
    recent, older = (
        [film_id(i) for i in range(3, 3 + MAX_LENGTH)],
        [film_id(i) for i in range(20, 40)],
    )
    options = {"k": 5, "exclude_seen": False, "exclude": older}
    long = recommend(client, older + recent, **options)
    assert long["items"] == recommend(client, recent, **options)["items"]
    # An unknown id takes no place of a known one.
    assert long["items"] == recommend(client, [*recent, "unheard of"], **options)["items"]


def test_a_cold_item_stands_in_the_sequence_by_its_attributes(
    client: TestClient, bundle: Bundle
) -> None:
    cold = {"title": "Never seen", "genres": ["Drama"]}
    given = client.post("/items/embed", json={"items": [{"attributes": cold}]}).json()
    vector = np.array(given["data"][0]["embedding"], dtype=np.float32)
    vectors = np.stack([bundle.item_vectors[4], vector, bundle.item_vectors[6]])
    expected = scores(bundle, vectors, seen=[4, 6])
    answer = recommend(client, ["film-4", {"attributes": cold}, "film-6"], k=3, exclude_seen=False)
    order = np.argsort(-expected)[:3]
    assert ids(answer) == [film_id(i) for i in order]
    alone = recommend(client, [{"attributes": cold}], k=3)
    assert [one["source"] for one in alone["items"]] == ["model"] * 3


def test_seen_and_excluded_items_stay_out(client: TestClient) -> None:
    everything = recommend(client, ["film-4"], k=FILMS, exclude_seen=False)
    assert len(ids(everything)) == FILMS
    best = ids(recommend(client, ["film-4"], k=3))
    answer = recommend(client, ["film-4", "film-4"], k=FILMS, exclude=[best[0], "never heard of"])
    assert not {"film-4", best[0]} & set(ids(answer))
    assert answer["unknown"] == []


def test_seen_items_are_ranked_with_the_repeat_bias(client: TestClient, bundle: Bundle) -> None:
    assert bundle.backbone.repeat_bias.item() == pytest.approx(TINY_REPEAT_BIAS)
    sequence = [4, 8, 15, 8]
    expected = scores(bundle, bundle.item_vectors[sequence], seen=[4, 8, 15])
    order = np.argsort(-expected)
    for k in (1, 3, FILMS):
        answer = recommend(client, [film_id(i) for i in sequence], k=k, exclude_seen=False)
        assert ids(answer) == [film_id(i) for i in order[:k]]
        found = [one["score"] for one in answer["items"]]
        assert found == pytest.approx(expected[order[:k]].tolist(), abs=1e-4)
    answer = recommend(
        client, ["film-4", "film-8"], k=FILMS, exclude_seen=False, exclude=["film-8"]
    )
    assert "film-4" in ids(answer)
    assert "film-8" not in ids(answer)


@pytest.mark.parametrize("seen", range(0, FILMS + 1, 4))
@pytest.mark.parametrize("k", [1, 7, 1000])
def test_k_items_come_back_while_k_are_eligible(client: TestClient, seen: int, k: int) -> None:
    sequence = [film_id(i) for i in range(seen)]
    answer = ids(recommend(client, sequence, k=k))
    assert len(answer) == min(k, FILMS - seen) == len(set(answer))
    assert not set(sequence) & set(answer)


@pytest.mark.parametrize("sequence", [[], ["who", "what"]])
def test_without_a_known_item_the_popular_ones_come(
    client: TestClient, bundle: Bundle, sequence: list[str]
) -> None:
    answer = recommend(client, sequence, k=6, exclude=["film-12"])
    order = [i for i in np.argsort(-bundle.popularity, kind="stable") if i != 12][:6]
    assert answer["items"] == [
        {
            "id": film_id(i),
            "score": float(bundle.popularity[i]),
            "rank": rank,
            "source": "popular",
        }
        for rank, i in enumerate(order, 1)
    ]
    assert answer["unknown"] == sequence


def test_unknown_ids_are_reported_once_each(client: TestClient) -> None:
    answer = recommend(client, ["new", "film-3", "", "new"], k=2)
    assert answer["unknown"] == ["new", ""]
    assert [one["source"] for one in answer["items"]] == ["model", "model"]


def test_a_batch_answers_as_each_request_would_alone(client: TestClient) -> None:
    requests = [
        {"sequence": ["film-4", "who"], "k": 3},
        {"sequence": [], "k": 2},
        {"sequence": [{"attributes": {"title": "Never seen"}}], "k": 40, "diversity": 0.5},
        {"sequence": ["film-9"], "filter": {"genres": {"any": ["Crime"]}}, "exclude_seen": False},
    ]
    answer = client.post("/recommend/batch", json={"requests": requests})
    assert answer.status_code == 200, answer.text
    for found, request in zip(answer.json()["results"], requests, strict=True):
        alone = client.post("/recommend", json=request).json()
        assert ids(found) == ids(alone)
        assert found["unknown"] == alone["unknown"]
    wrong = client.post(
        "/recommend/batch", json={"requests": [requests[0], {"sequence": [], "k": 0}]}
    )
    assert wrong.json()["errors"][0]["field"] == "requests.1.k"
    wrong = client.post("/recommend/batch", json={"requests": [{"sequence": [], "k": 10_000}]})
    assert (wrong.status_code, wrong.json()["errors"][0]["field"]) == (422, "requests.0.k")


@pytest.mark.parametrize("sequence", [["film-4"], []])
def test_a_filter_lets_through_what_is_as_asked(client: TestClient, sequence: list[str]) -> None:
    asked = {"genres": {"any": ["Crime", "Action"], "none": ["Drama"]}, "year": {"gte": 1970}}
    answer = recommend(client, sequence, k=FILMS, filter=asked)
    expected = {
        film_id(i)
        for i in range(FILMS)
        if {"Crime", "Action"} & set(film(i)["genres"])
        and "Drama" not in film(i)["genres"]
        and film(i)["year"] >= 1970
    }
    assert set(ids(answer)) == expected - set(sequence)
    assert answer["eligible"] == len(expected)


def test_similar_items_are_filtered_too(client: TestClient) -> None:
    asked = {"attributes": film(4), "k": FILMS, "filter": {"year": {"gte": 1990}}}
    found = client.post("/items/similar", json=asked).json()["items"]
    assert {one["id"] for one in found} == {film_id(i) for i in range(FILMS) if 1960 + i >= 1990}
    unknown = client.post("/items/similar", json={**asked, "filter": {"colour": {"lt": 3}}})
    assert unknown.json()["errors"][0]["field"] == "filter.colour"


def test_filters_that_contradict_say_that_nothing_passes(client: TestClient) -> None:
    answer = recommend(client, ["film-4"], filter={"year": {"gt": 2000, "lt": 1990}})
    assert (answer["items"], answer["eligible"]) == ([], 0)


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"colour": {"any": ["red"]}}, "filter.colour"),
        ({"year": {}}, "filter.year"),
        ({"year": {"gte": "old"}}, "filter.year.gte"),
        ({"year": {"like": 3}}, "filter.year.like"),
        ({"year": {"lt": float("nan")}}, "filter.year.lt"),
        ({"year": {"any": list(range(2000))}}, "filter"),
    ],
)
def test_a_filter_that_cannot_be_meant_is_refused(
    client: TestClient, asked: dict, field: str
) -> None:
    body = json.dumps({"sequence": ["film-4"], "filter": asked})
    headers = {"content-type": "application/json"}
    answer = client.post("/recommend", content=body, headers=headers)
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, field)


def test_an_explanation_is_what_scores_lose(client: TestClient, bundle: Bundle) -> None:
    cold = {"title": "Never seen", "genres": ["Drama"]}
    sequence = ["film-4", "who", {"attributes": cold}, "film-8"]
    answer = recommend(client, sequence, k=5, explain=True)
    assert ids(answer) == ids(recommend(client, sequence, k=5))
    places = set()
    for one in answer["items"]:
        for driver in one["because"]:
            places.add(driver["place"])
            assert driver["id"] == {0: "film-4", 2: None, 3: "film-8"}[driver["place"]]
            less = [entry for i, entry in enumerate(sequence) if i != driver["place"]]
            after = recommend(client, less, k=FILMS, exclude_seen=False)
            left = next(found for found in after["items"] if found["id"] == one["id"])
            assert one["score"] - left["score"] == pytest.approx(driver["change"], abs=1e-4)
    assert places
    (alone,) = recommend(client, ["film-4"], k=1, explain=True)["items"]
    assert [driver["place"] for driver in alone["because"]] == ([0] if alone["score"] > 0 else [])
    popular = recommend(client, [], k=1, explain=True)["items"]
    assert popular[0]["because"] == []


def test_attributes_are_weighed_by_leaving_each_out(client: TestClient) -> None:
    cold = {"title": "Never seen", "genres": ["Drama"], "year": 1999, "votes": 3}
    asked = {"sequence": ["film-4", "film-8"], "attributes": cold}
    answer = client.post("/items/explain", json=asked)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    ranking = recommend(client, asked["sequence"], k=FILMS, exclude_seen=False)["items"]
    higher = [one for one in ranking if one["score"] > found["score"]]
    assert abs(found["rank"] - 1 - len(higher)) <= 2  # repeated items score otherwise there
    without = {one["attribute"]: one for one in found["without"]}
    assert without.keys() == cold.keys()
    assert without["votes"]["change"] == pytest.approx(0, abs=1e-6)  # the prompt leaves it out
    less = {name: value for name, value in cold.items() if name != "genres"}
    again = client.post("/items/explain", json={**asked, "attributes": less}).json()
    assert without["genres"]["score"] == pytest.approx(again["score"], abs=1e-5)
    changes = [one["change"] for one in found["without"]]
    assert changes == sorted(changes, reverse=True)
    only = {**asked, "attributes": {"title": "Never seen"}}
    assert client.post("/items/explain", json=only).json()["without"] == []
    lost = client.post("/items/explain", json={**asked, "sequence": ["who"]})
    assert (lost.status_code, lost.json()["errors"][0]["field"]) == (422, "sequence")
