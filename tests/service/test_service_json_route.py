"""The short way of a JSON body answers as FastAPI's own does."""

import pytest
from fastapi import APIRouter, FastAPI, Request
from fastapi.testclient import TestClient
from pydantic import BaseModel

from service.api.json_route import JSONRoute

SHORT = "application/json"
FASTAPIS = "application/json; charset=utf-8"


class Order(BaseModel):
    item: str
    count: int = 1


class Answer(BaseModel):
    taken: list[Order]


def make_client() -> TestClient:
    router = APIRouter(route_class=JSONRoute)

    @router.post("/orders")
    async def orders(http: Request, order: Order) -> Answer:
        return Answer(taken=[order] * len(http.headers["x-times"]))

    @router.post("/orders/{item}")
    async def other(item: str, order: Order) -> Answer:
        return Answer(taken=[order, Order(item=item)])

    app = FastAPI()
    app.include_router(router)
    return TestClient(app)


@pytest.mark.parametrize(
    "body",
    [
        b'{"item": "a", "count": 2}',
        b'{"item": "\xc3\xa4", "more": NaN}',
        b'{"item": 1}',
        b'{"item": "a", "count": "many"}',
        b'{"item": "a"',
        b'{"item": "\xff"}',
        b"[" * 5000,
        b"",
    ],
)
def test_an_answer_is_the_same_either_way(body: bytes) -> None:
    client = make_client()
    short, long = (
        client.post("/orders", content=body, headers={"content-type": kind, "x-times": "II"})
        for kind in (SHORT, FASTAPIS)
    )
    assert short.status_code == long.status_code
    assert short.json() == long.json()


def test_a_route_that_takes_more_than_a_body_is_left_to_fastapi() -> None:
    answer = make_client().post("/orders/b", json={"item": "a"})
    assert [order["item"] for order in answer.json()["taken"]] == ["a", "b"]


def test_the_body_is_documented() -> None:
    schema = make_client().get("/openapi.json").json()
    body = schema["paths"]["/orders"]["post"]["requestBody"]["content"]["application/json"]
    assert body["schema"] == {"$ref": "#/components/schemas/Order"}
