"""The Python client keeps the contract that all clients share, sync and async."""

import asyncio
import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import llmemb_client
import numpy as np
import pytest
from llmemb_client import AsyncClient, Client, Item, PutCount, errors
from pydantic import BaseModel
from service_process import Service

PACKAGE = Path(__file__).parents[2] / "clients/python"
SCENARIOS = json.loads((PACKAGE.parent / "contract.json").read_bytes())


def plain(value: Any) -> Any:
    """Return an answer as JSON would have it."""
    if isinstance(value, list):
        return [plain(one) for one in value]
    if isinstance(value, BaseModel):
        return {name: plain(one) for name, one in value}
    return vars(value) if isinstance(value, PutCount) else value


def check(found: Any, expected: Any) -> None:
    """Compare; of an object, only what is expected of it counts."""
    if not isinstance(expected, dict):
        if isinstance(expected, list):
            assert len(found) == len(expected)
            for one, other in zip(found, expected, strict=True):
                check(one, other)
        else:
            assert found == expected
    elif "$length" in expected:
        assert len(found) == expected["$length"]
    elif "$floats" in expected:
        assert len(found) == 4 * expected["$floats"]
    else:
        for key, value in expected.items():
            check(found[key], value)


def arguments(step: dict[str, Any]) -> dict[str, Any]:
    given = dict(step["with"])
    if step["call"] == "put_items":
        given["items"] = (Item(**one) for one in given["items"])  # a stream
    return given


def play(client: Client, steps: list[dict[str, Any]]) -> None:
    for step in steps:
        call = getattr(client, step["call"])
        if "raises" not in step:
            answer = call(**arguments(step))
            check(plain(list(answer) if step["call"] == "items" else answer), step.get("gives"))
            continue
        expected = step["raises"]
        with pytest.raises(getattr(errors, expected["error"])) as caught:
            call(**arguments(step))
        for name in {"status"} & expected.keys():
            assert getattr(caught.value, name) == expected[name]
        if "field" in expected:
            assert caught.value.errors[0].field == expected["field"]  # type: ignore[attr-defined]


class Awaited:
    """An asynchronous client, called as the other one is."""

    def __init__(self, client: AsyncClient, runner: asyncio.Runner) -> None:
        self._client, self._runner = client, runner

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        async def awaited(**given: Any) -> Any:
            answer = method(**given)
            return [item async for item in answer] if name == "items" else await answer

        return lambda **given: self._runner.run(awaited(**given))


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("scenario", SCENARIOS, ids=[one["promise"] for one in SCENARIOS])
def test_it_keeps_the_contract(
    scenario: dict[str, Any], asynchronous: bool, service: Service, scripted: str
) -> None:
    scripted_steps = scenario.get("script")
    url = scripted if scripted_steps else str(service.client.base_url)
    if scripted_steps:
        httpx.put(f"{scripted}/script", json=scripted_steps)
    settings = {name: scenario[name] for name in ("timeout", "retries") if name in scenario}
    began = time.monotonic()
    key = scenario.get("key", "admin")
    if asynchronous:
        with asyncio.Runner() as runner:
            other = AsyncClient(url, key=key, **settings)
            play(Awaited(other, runner), scenario["steps"])  # type: ignore[arg-type]
            runner.run(other.aclose())
    else:
        with Client(url, key=key, **settings) as client:
            play(client, scenario["steps"])
    if scripted_steps:
        assert httpx.get(f"{scripted}/script").json()["asked"] == scenario["asked"]
        assert time.monotonic() - began >= scenario.get("seconds_at_least", 0)


def test_vectors_come_as_numpy_arrays_and_as_numbers(service: Service) -> None:
    with Client(str(service.client.base_url), key="read") as client:
        found = client.embed(items=[{"title": "Heat"}, {"title": "Ronin"}])
    vectors = found.numpy()
    assert vectors.shape == (2, 16)
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(np.float32(found.data[1].tolist()), vectors[1])


def test_a_stream_is_put_as_it_comes_and_told_of(service: Service) -> None:
    taken, told = [], []

    def stream() -> Any:
        for i in range(5):
            taken.append(i)
            yield Item(id=f"stream-{i}", attributes={"title": f"S{i}"})

    with Client(str(service.client.base_url), key="write") as client:
        items = stream()
        client.put_items(
            items=items, batch=2, on_progress=lambda done: told.append((done.items, len(taken)))
        )
        for i in range(5):
            client.delete_item(item_id=f"stream-{i}")
    assert told == [(2, 2), (4, 4), (5, 5)]


def test_a_stream_that_breaks_says_how_far_it_came(service: Service) -> None:
    items = [Item(id=f"i{i}", attributes={"title": "x"}) for i in range(3)]
    items.append(Item(id="", attributes={}))
    with Client(str(service.client.base_url), key="write") as client:
        with pytest.raises(errors.InvalidRequestError) as caught:
            client.put_items(items=items, batch=2)
        assert caught.value.__notes__ == ["2 items were put; this batch begins with 'i2'"]
        assert caught.value.request_id
        for i in range(2):
            client.delete_item(item_id=f"i{i}")


def test_nothing_that_listens_is_told(service: Service) -> None:
    with (
        Client("http://127.0.0.1:9", retries=1) as client,
        pytest.raises(errors.ConnectionFailedError, match=r"127\.0\.0\.1:9"),
    ):
        client.ready()


def test_the_synchronous_client_is_made_of_the_asynchronous_one() -> None:
    made = make_sync().synchronous(
        (PACKAGE / "llmemb_client/async_client.py").read_text(encoding="utf-8")
    )
    assert (PACKAGE / "llmemb_client/client.py").read_text(encoding="utf-8") == made


def make_sync() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_sync", PACKAGE / "make_sync.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_its_models_are_those_of_the_openapi_document(service: Service) -> None:
    headers = {"Authorization": "Bearer read"}
    document = service.client.get("/openapi.json", headers=headers).json()
    named = {
        "CatalogueItem": "ItemAnswer",
        "Put": "PutAnswer",
        "Recommendations": "RecommendAnswer",
        "Similar": "SimilarAnswer",
        "Explanation": "ExplainAnswer",
        "Embeddings": "EmbedAnswer",
        "Bundle": "BundleAnswer",
    }
    left_out = {("Embedding", "id")}  # items of a list are known by their place
    for name, model in vars(llmemb_client.models).items():
        if not (isinstance(model, type) and issubclass(model, BaseModel)) or name.startswith("_"):
            continue
        if model is BaseModel:
            continue
        theirs = set(document["components"]["schemas"][named.get(name, name)]["properties"])
        assert set(model.model_fields) == {one for one in theirs if (name, one) not in left_out}


def test_it_is_imported_quickly_and_without_numpy() -> None:
    code = "import sys, llmemb_client; sys.exit('numpy' in sys.modules)"
    took = []
    for _ in range(3):
        began = time.monotonic()
        subprocess.run([sys.executable, "-c", code], check=True, cwd=PACKAGE)
        took.append(time.monotonic() - began)
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", "pass"], check=True)
    nothing = time.monotonic() - began
    assert min(took) - nothing < 0.6, took  # .3 s on an idle machine
