"""LangChain and LlamaIndex ask ``/v1/embeddings``, and get what it answers."""

import numpy as np
import pytest
from langchain_openai import OpenAIEmbeddings
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from service_process import Serve, Service

from service.api.openai import MODELS

TEXTS = [f"The film item has the following attributes: title is Film {i}" for i in range(12)]


@pytest.fixture(scope="module")
def running(serve: Serve) -> Service:
    return serve()


def answered(service: Service, model: str) -> np.ndarray:
    answer = service.client.post("/v1/embeddings", json={"model": model, "input": TEXTS})
    return np.array([one["embedding"] for one in answer.json()["data"]])


@pytest.mark.parametrize("model", MODELS)
def test_langchain_gets_the_same_vectors(running: Service, model: str) -> None:
    embeddings = OpenAIEmbeddings(
        base_url=f"{running.client.base_url}/v1",
        api_key="unused",
        model=model,
        check_embedding_ctx_length=False,  # or it would send the token ids of another model
    )
    expected = answered(running, model)
    assert np.array(embeddings.embed_documents(TEXTS)) == pytest.approx(expected, abs=1e-6)
    assert np.array(embeddings.embed_query(TEXTS[3])) == pytest.approx(expected[3], abs=1e-6)


@pytest.mark.parametrize("model", MODELS)
def test_llama_index_gets_the_same_vectors(running: Service, model: str) -> None:
    embeddings = OpenAILikeEmbedding(
        api_base=f"{running.client.base_url}/v1", api_key="unused", model_name=model
    )
    expected = answered(running, model)
    found = embeddings.get_text_embedding_batch(TEXTS)
    assert np.array(found) == pytest.approx(expected, abs=1e-6)
    assert np.array(embeddings.get_query_embedding(TEXTS[3])) == pytest.approx(
        expected[3], abs=1e-6
    )
