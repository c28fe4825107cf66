"""Limits in front of every route: requests in progress, size of bodies, clients that hang up."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from service_setup import until
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.intake import Intake
from service.traffic import Traffic

pytestmark = pytest.mark.anyio

LIMIT = 1000


class Inner:
    """An application that answers the length of the body, or waits for ever."""

    def __init__(self) -> None:
        self.waiting = 0
        self.ended = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/wait":
            self.waiting += 1
            try:
                await asyncio.Event().wait()
            finally:
                self.waiting -= 1
                self.ended.set()
        if scope["path"] == "/bug":
            raise RuntimeError("a bug")
        message = await receive()
        await PlainTextResponse(str(len(message.get("body", b""))))(scope, receive, send)


@pytest.fixture
def inner() -> Inner:
    return Inner()


def bounded(inner: ASGIApp) -> Intake:
    return Intake(inner, traffic=Traffic(), max_requests=3, max_body_bytes=LIMIT, body_seconds=10)


@pytest.fixture
async def client(inner: Inner) -> AsyncIterator[httpx.AsyncClient]:
    intake = bounded(inner)
    transport = httpx.ASGITransport(intake)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as opened:
        yield opened


async def chunks(size: int) -> AsyncIterator[bytes]:
    for start in range(0, size, 300):
        yield b"x" * min(300, size - start)


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_up_to_the_limit_arrives_whole(
    client: httpx.AsyncClient, chunked: bool
) -> None:
    for size in (0, 1, LIMIT):
        answer = await client.post("/", content=chunks(size) if chunked else b"x" * size)
        assert (answer.status_code, answer.text) == (200, str(size))


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("size", [LIMIT + 1, 8 * LIMIT, 50 * LIMIT])
async def test_a_larger_body_is_a_413(client: httpx.AsyncClient, chunked: bool, size: int) -> None:
    answer = await client.post("/", content=chunks(size) if chunked else b"x" * size)
    assert answer.status_code == 413
    assert answer.headers["content-type"] == "application/problem+json"
    assert "1,000 bytes" in answer.json()["detail"]


async def test_one_request_too_many_is_a_429(client: httpx.AsyncClient, inner: Inner) -> None:
    waiting = [asyncio.create_task(client.get("/wait")) for _ in range(3)]
    await until(lambda: inner.waiting == 3)
    refused = await client.post("/")
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) >= 1
    assert (await client.get("/health/live")).status_code == 200
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert (await client.post("/")).status_code == 200


async def test_an_error_frees_its_place(client: httpx.AsyncClient) -> None:
    for _ in range(5):
        with pytest.raises(RuntimeError, match="a bug"):
            await client.get("/bug")
    assert (await client.post("/")).status_code == 200


async def test_a_request_ends_when_its_client_hangs_up(inner: Inner) -> None:
    messages: asyncio.Queue[Message] = asyncio.Queue()
    messages.put_nowait({"type": "http.request", "body": b"", "more_body": False})
    scope: dict[str, Any] = {"type": "http", "path": "/wait", "headers": []}
    intake = bounded(inner)
    serving = asyncio.create_task(intake(scope, messages.get, _nowhere))
    await until(lambda: inner.waiting)
    messages.put_nowait({"type": "http.disconnect"})
    await asyncio.wait_for(serving, 1)
    assert inner.ended.is_set()


async def test_a_client_that_hangs_up_in_its_body_is_forgotten(inner: Inner) -> None:
    messages: asyncio.Queue[Message] = asyncio.Queue()
    messages.put_nowait({"type": "http.request", "body": b"half", "more_body": True})
    messages.put_nowait({"type": "http.disconnect"})
    scope: dict[str, Any] = {"type": "http", "path": "/", "headers": []}
    await bounded(inner)(scope, messages.get, _nowhere)


async def _nowhere(message: Message) -> None:
    raise AssertionError(f"an answer to nobody: {message}")
