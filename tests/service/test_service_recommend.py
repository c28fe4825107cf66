"""Recommendations: exact against the backbone called directly, always k items while k are eligible."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from fastapi import FastAPI
from fastapi.testclient import TestClient
from tiny_bundle import FILMS, MAX_LENGTH, TINY_REPEAT_BIAS, film_id

from llmemb.bundle import Bundle, read_bundle


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
async def test_user_vectors_equal_the_backbones(
    app: FastAPI, client: TestClient, bundle: Bundle
) -> None:
    user = await app.state.serving.recommender.user_vector([1, 2])
    vectors = torch.from_numpy(bundle.item_vectors[[1, 2]])
    with torch.inference_mode():
        direct = bundle.backbone.user_vectors(vectors[None], torch.tensor([2]))
    assert user.tolist() == direct[0].tolist()


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
        {"id": film_id(i), "score": float(bundle.popularity[i]), "source": "popular"} for i in order
    ]
    assert answer["unknown"] == sequence


def test_unknown_ids_are_reported_once_each(client: TestClient) -> None:
    answer = recommend(client, ["new", "film-3", "", "new"], k=2)
    assert answer["unknown"] == ["new", ""]
    assert [one["source"] for one in answer["items"]] == ["model", "model"]
