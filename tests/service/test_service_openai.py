"""The OpenAI-compatible calls, asked by OpenAI's own client."""

import socket
import threading
from collections.abc import Iterator

import httpx
import numpy as np
import openai
import pytest
import uvicorn
from fastapi.testclient import TestClient
from openai import OpenAI
from service_setup import MakeSettings
from tiny_bundle import ENCODER, PROMPT, WIDTH

from service.api.openai import MODELS
from service.app import create_app

TEXTS = ["A film about a heist", "Ein Film über Züge", "A film about a heist"]


@pytest.fixture(scope="module")
def url(make_settings: MakeSettings) -> Iterator[str]:
    """The service on a port of its own, in a thread."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(create_app(make_settings()), log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def ask(url: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0) as client:
        yield client


@pytest.mark.parametrize("model", MODELS)
def test_texts_are_embedded_in_order(ask: OpenAI, model: str) -> None:
    answer = ask.embeddings.create(model=model, input=TEXTS)
    assert [one.index for one in answer.data] == [0, 1, 2]
    first, other, again = (one.embedding for one in answer.data)
    assert first == again != other
    assert answer.model == model
    assert answer.usage.prompt_tokens == answer.usage.total_tokens > 0
    alone = ask.embeddings.create(model=model, input=TEXTS[1])
    assert alone.data[0].embedding == other


def test_floats_are_what_base64_holds(ask: OpenAI) -> None:
    # Asked for nothing, the client asks for base64 and decodes it.
    decoded = ask.embeddings.create(model="llmemb-llm", input=TEXTS[0]).data[0].embedding
    floats = ask.embeddings.create(model="llmemb-llm", input=TEXTS[0], encoding_format="float")
    assert floats.data[0].embedding == pytest.approx(decoded)


def test_an_items_prompt_gives_the_items_vector(url: str, ask: OpenAI) -> None:
    item = {"title": "Written out", "genres": ["Drama"]}
    prompt = PROMPT.render(item)
    for space in ("srs", "llm"):
        form = {"items": [{"attributes": item}], "space": space}
        expected = httpx.post(f"{url}/items/embed", json=form).json()["data"][0]["embedding"]
        found = ask.embeddings.create(model=f"llmemb-{space}", input=prompt).data[0].embedding
        assert found == pytest.approx(expected, abs=1e-3)


def test_fewer_dimensions_are_the_first_at_unit_length(ask: OpenAI) -> None:
    whole = np.array(ask.embeddings.create(model="llmemb-srs", input="x").data[0].embedding)
    answer = ask.embeddings.create(model="llmemb-srs", input="x", dimensions=4)
    found = np.array(answer.data[0].embedding)
    assert found == pytest.approx(whole[:4] / np.linalg.norm(whole[:4]), abs=1e-6)
    with pytest.raises(openai.UnprocessableEntityError, match=f"over the limit of {WIDTH}"):
        ask.embeddings.create(model="llmemb-srs", input="x", dimensions=WIDTH + 1)


def test_models_are_listed_and_looked_up(ask: OpenAI) -> None:
    assert [model.id for model in ask.models.list()] == list(MODELS)
    found = ask.models.retrieve(MODELS[1])
    assert (found.id, found.owned_by) == (MODELS[1], "llmemb")
    assert found.created > 1_600_000_000
    with pytest.raises(openai.NotFoundError):
        ask.models.retrieve("gpt-4")
    with pytest.raises(openai.NotFoundError, match="llmemb-srs"):
        ask.embeddings.create(model="gpt-4", input="x")


@pytest.mark.parametrize(
    ("given", "field", "reason"),
    [
        ([], "input", "at least 1 item"),
        ("", "input.0", "nothing to read"),
        (["fine", " \n"], "input.1", "nothing to read"),
        (["x"] * 257, "input", "over the limit of 256"),
        ([1, 2, 3], "input", "give text"),
        ([[1, 2], [3]], "input", "give text"),
        ("x" * 70_000, "input.0", "the limit is 65,536"),
        ("a word " * ENCODER.max_tokens, "input.0", f"longer than the {ENCODER.max_tokens} tokens"),
        (["x", None], "input.1", "string"),
        ({"text": "x"}, "input", "list"),
        (None, "input", "list"),
    ],
)
def test_a_bad_input_is_named(client: TestClient, given: object, field: str, reason: str) -> None:
    answer = client.post("/v1/embeddings", json={"model": "llmemb-llm", "input": given})
    assert answer.status_code == 422
    error = answer.json()["errors"][0]
    assert error["field"] == field
    assert reason in error["reason"]


def test_a_lone_surrogate_is_refused(client: TestClient) -> None:
    body = rb'{"model": "llmemb-llm", "input": "\ud800"}'
    headers = {"Content-Type": "application/json"}
    answer = client.post("/v1/embeddings", content=body, headers=headers)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "input.0"
