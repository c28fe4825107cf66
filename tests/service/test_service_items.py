"""Items: vectors in input order, cached or fresh alike; the catalogue; what is similar."""

import base64
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from tiny_bundle import ENCODER, FILMS, PROMPT, WIDTH, film, film_id

from llmemb.bundle import read_bundle


def embed(client: TestClient, *items: dict, **fields: object) -> dict:
    answer = client.post(
        "/items/embed", json={"items": [{"attributes": i} for i in items], **fields}
    )
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_vectors_are_those_of_the_encoder_and_the_adapter(
    client: TestClient, tiny_bundle: Path
) -> None:
    bundle = read_bundle(tiny_bundle)
    items = [{"title": f"Checked {i}", "genres": ["Drama"] * (i + 1)} for i in range(5)]
    expected = bundle.load_encoder().encode([PROMPT.render(item) for item in items])
    llm = embed(client, *items, space="llm")
    assert llm["dimensions"] == bundle.manifest.llm_dimensions
    vectors = np.array([one["embedding"] for one in llm["data"]])
    cosine = (vectors * expected).sum(1) / np.linalg.norm(vectors, axis=1)
    # bfloat16 rounds by the shape of the batch
    assert cosine / np.linalg.norm(expected.astype(float), axis=1) == pytest.approx(1, abs=2e-3)
    srs = embed(client, *items)
    assert srs["dimensions"] == WIDTH
    assert srs["bundle"] == bundle.manifest.bundle
    for one, vector in zip(srs["data"], vectors, strict=True):
        adapted = bundle.adapt(vector[np.newaxis].astype(np.float16))[0]
        assert one["embedding"] == adapted.tolist()


def test_answers_keep_order_ids_and_duplicates(client: TestClient) -> None:
    items = [
        {"id": "second", "attributes": {"title": "Order B"}},
        {"attributes": {"title": "Order A, with a much longer title than the others have"}},
        {"id": "second again", "attributes": {"title": "Order B", "empty": None}},
    ]
    answer = client.post("/items/embed", json={"items": items}).json()
    assert [one["index"] for one in answer["data"]] == [0, 1, 2]
    assert [one["id"] for one in answer["data"]] == ["second", None, "second again"]
    first, other, again = (one["embedding"] for one in answer["data"])
    assert first == again != other
    tokens = sum(one["tokens"] for one in answer["data"])
    assert answer["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}


@pytest.mark.parametrize("space", ["srs", "llm"])
@pytest.mark.parametrize("encoding_format", ["float", "base64"])
def test_a_cached_answer_is_the_fresh_one_bit_for_bit(
    client: TestClient, space: str, encoding_format: str
) -> None:
    form = {"space": space, "encoding_format": encoding_format}
    items = [{"title": f"Bits {i} {space} {encoding_format}"} for i in range(3)]
    fresh = embed(client, *items, **form)["data"]
    assert not any(one["cached"] for one in fresh)
    alone = embed(client, items[1], **form)["data"][0]  # in other company than when it was computed
    assert alone["cached"]
    assert alone["embedding"] == fresh[1]["embedding"]
    assert (alone["tokens"], alone["truncated"]) == (fresh[1]["tokens"], fresh[1]["truncated"])


def test_base64_is_little_endian_float32(client: TestClient) -> None:
    item = {"title": "Base sixty-four"}
    plain = embed(client, item)["data"][0]["embedding"]
    encoded = embed(client, item, encoding_format="base64")["data"][0]["embedding"]
    assert np.frombuffer(base64.b64decode(encoded), dtype="<f4").tolist() == plain


def test_spelling_of_the_attributes_does_not_matter(client: TestClient) -> None:
    embed(client, {"title": "Amélie", "year": 2001, "tags": ["a", "b"]})
    other = {
        "year": 2001.0,
        "tags": ["a", "b"],
        "title": unicodedata.normalize("NFD", "Amélie"),
        "x": [],
    }
    assert embed(client, other)["data"][0]["cached"]


def test_a_prompt_that_is_cut_says_so(client: TestClient) -> None:
    long = embed(client, {"title": "one two three " * 14, "plot": "four five six " * 14})["data"][0]
    assert (long["truncated"], long["tokens"]) == (True, ENCODER.max_tokens)
    again = embed(client, {"title": "one two three " * 14, "plot": "four five six " * 14})["data"][
        0
    ]
    assert (again["truncated"], again["cached"]) == (True, True)
    assert not embed(client, {"title": "short"})["data"][0]["truncated"]


@pytest.mark.parametrize("i", [0, 1, 2, 7])
def test_an_item_is_found_whatever_its_id_holds(client: TestClient, app: FastAPI, i: int) -> None:
    answer = client.get(app.url_path_for("get_item", item_id=film_id(i).replace("?", "%3F")))
    assert answer.status_code == 200
    assert answer.json() == {
        "id": film_id(i),
        "attributes": film(i),
        "popularity": int(app.state.served.serving.bundle.popularity[i]),
        "kind": app.state.served.serving.live.items.kind(film_id(i)),
        "version": 0,
        "updated": None,
    }
    near = client.get(f"/items/{film_id(i).replace('?', '%3F')}/similar?k=3").json()["items"]
    assert len(near) == 3


def test_similar_items_are_the_nearest_by_cosine(client: TestClient, app: FastAPI) -> None:
    vectors = app.state.served.serving.bundle.item_vectors
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    expected = unit @ unit[5]
    answer = client.get("/items/film-5/similar?k=1000").json()
    assert len(answer["items"]) == FILMS - 1
    order = [i for i in np.argsort(-expected) if i != 5]
    assert [one["id"] for one in answer["items"]] == [film_id(i) for i in order]
    assert [one["score"] for one in answer["items"]] == pytest.approx(
        expected[order].tolist(), abs=1e-5
    )
    assert answer["items"][0]["attributes"] == film(order[0])


def test_an_item_is_most_similar_to_its_own_attributes(client: TestClient) -> None:
    answer = client.post("/items/similar", json={"attributes": film(9), "k": 2}).json()
    assert len(answer["items"]) == 2
    assert answer["items"][0]["id"] == "film-9"
    assert answer["items"][0]["score"] == pytest.approx(1, abs=1e-2)
    everything = client.post("/items/similar", json={"attributes": film(9), "k": 1000}).json()
    assert len(everything["items"]) == FILMS


def test_the_bundle_tells_what_is_served(client: TestClient, app: FastAPI) -> None:
    answer = client.get("/bundle").json()
    assert answer["manifest"]["bundle"] == app.state.served.serving.bundle.manifest.bundle
    assert answer["serving"]["device"] in ("cpu", "cuda")
    assert answer["serving"]["dtype"] in ("float32", "bfloat16")
    assert answer["serving"]["threads"] >= 1


def test_an_item_that_is_too_long_is_cut_or_refused(client: TestClient) -> None:
    long, short = {"title": "word " * 500}, {"title": "Short enough"}
    cut = embed(client, short, long)["data"]
    assert [one["truncated"] for one in cut] == [False, True]
    form = {"items": [{"attributes": short}, {"attributes": long}], "truncate": False}
    refused = client.post("/items/embed", json=form)
    assert refused.status_code == 422
    assert refused.json()["errors"] == [
        {
            "field": "items.1.attributes",
            "reason": f"it is longer than the {ENCODER.max_tokens} tokens that the model reads",
        }
    ]
    assert embed(client, short, truncate=False)["data"][0]["cached"]
