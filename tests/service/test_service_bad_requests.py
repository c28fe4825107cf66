"""Whatever is wrong with a request, the answer is a problem that names it, and never a 500."""

import json
import re
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from httpx import Response

JSON = {"content-type": "application/json"}


def check_problem(answer: Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert (problem["status"], problem["type"]) == (status, "about:blank")
    assert problem["title"]
    assert problem["detail"]
    return problem


def item(attributes: Any, **more: Any) -> dict[str, Any]:
    return {"items": [{"attributes": {"title": "fine"}}, {"attributes": attributes, **more}]}


def nested(depth: int) -> Any:
    value: Any = "deep"
    for _ in range(depth):
        value = [value]
    return value


EMBED = [
    ({}, "items"),
    ({"items": []}, "items"),
    ({"items": [{"attributes": {"title": "x"}}] * 257}, "items"),
    ({"items": [{}]}, "items.0.attributes"),
    ({"items": ["film-1"]}, "items.0"),
    (item("a text"), "items.1.attributes"),
    (item({}), "items.1.attributes"),
    (item({"title": " ", "genres": [], "year": None}), "items.1.attributes"),
    (item({"votes": 12}), "items.1.attributes"),  # excluded from the prompt
    (item({"title": "x", "plot": {"cast": [1, float("nan")]}}), "items.1.attributes.plot.cast.1"),
    (item({"year": float("inf")}), "items.1.attributes.year"),
    (item({"title": "lone \ud800 surrogate"}), "items.1.attributes.title"),
    (item({"lone \ud800 name": "x"}), "items.1.attributes"),
    (item({"tags": nested(20)}), "items.1.attributes.tags"),
    (item({"plot": "x" * 70_000}), "items.1.attributes.plot"),
    (item({"title": "x", " title": "y"}), "items.1.attributes"),
    (item({"title": "x"}, id=""), "items.1.id"),
    (item({"title": "x"}, id="y" * 513), "items.1.id"),
    (item({"title": "x"}, id="control \x07"), "items.1.id"),
    (item({"title": "x"}, id="lone \ud800"), "items.1.id"),
    (item({"title": "x"}, id=7), "items.1.id"),
    (item({"title": "x"}, popularity=3), "items.1.popularity"),
    ({**item({"title": "x"}), "space": "id"}, "space"),
    ({**item({"title": "x"}), "encoding_format": "hex"}, "encoding_format"),
    ({**item({"title": "x"}), "model": "m"}, "model"),
]


@pytest.mark.parametrize(("body", "field"), EMBED)
def test_a_bad_embed_request_is_told_which_field(client: TestClient, body: Any, field: str) -> None:
    answer = client.post("/items/embed", content=json.dumps(body), headers=JSON)
    problem = check_problem(answer, 422)
    named = [error["field"] for error in problem["errors"]]
    assert any(name == field or name.startswith(f"{field}.") for name in named), problem
    assert all(error["reason"] for error in problem["errors"])


RECOMMEND = [
    ({}, "sequence"),
    ({"sequence": "film-1"}, "sequence"),
    ({"sequence": [7]}, "sequence.0"),
    ({"sequence": ["film-1", {"title": "x"}]}, "sequence.1.attributes"),
    ({"sequence": [{"attributes": {"title": "x"}, "id": "y"}]}, "sequence.0.id"),
    (
        {"sequence": ["film-1", {"attributes": {"year": float("nan")}}]},
        "sequence.1.attributes.year",
    ),
    ({"sequence": ["film-1", {"attributes": {}}]}, "sequence.1.attributes"),
    ({"sequence": ["lone \ud800"]}, "sequence.0"),
    ({"sequence": ["film-1"] * 1001}, "sequence"),
    ({"sequence": ["film-1"], "k": 0}, "k"),
    ({"sequence": ["film-1"], "k": 1001}, "k"),
    ({"sequence": ["film-1"], "k": 10**400}, "k"),
    ({"sequence": ["film-1"], "k": float("nan")}, "k"),
    ({"sequence": ["film-1"], "exclude": ["x"] * 10_001}, "exclude"),
    ({"sequence": ["film-1"], "exclude": "film-2"}, "exclude"),
    ({"sequence": ["film-1"], "filter": {"genres": "Drama"}}, "filter.genres"),
    ({"sequence": ["film-1"], "explain": "maybe"}, "explain"),
]


@pytest.mark.parametrize(("body", "field"), RECOMMEND)
def test_a_bad_recommend_request_is_told_which_field(
    client: TestClient, body: Any, field: str
) -> None:
    answer = client.post("/recommend", content=json.dumps(body), headers=JSON)
    problem = check_problem(answer, 422)
    assert problem["errors"][0]["field"] == field, problem


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"attributes": {"title": "x"}, "k": 0}, "k"),
        ({"attributes": {"title": "x"}, "k": 1001}, "k"),
        ({"attributes": {}}, "attributes"),
        ({"attributes": {"year": float("nan")}}, "attributes.year"),
        ({"k": 3}, "attributes"),
    ],
)
def test_a_bad_similar_request_is_told_which_field(
    client: TestClient, body: Any, field: str
) -> None:
    answer = client.post("/items/similar", content=json.dumps(body), headers=JSON)
    assert check_problem(answer, 422)["errors"][0]["field"] == field


@pytest.mark.parametrize("k", ["0", "-1", "1001", "many", "1e3", ""])
def test_a_bad_k_in_the_query_is_named(client: TestClient, k: str) -> None:
    problem = check_problem(client.get(f"/items/film-5/similar?k={k}"), 422)
    assert problem["errors"][0]["field"] == "k"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"NaN",
        b"[1, 2]",
        b'"text"',
        b'{"items": [{"attributes": {"title": "\xff\xfe"}}]}',
        b"\xff\xff",
        b"[" * 100_000,
        b'{"items":' * 50_000,
        b'{"items": [{"attributes": {"year": ' + b"9" * 5000 + b"}}]}",
    ],
    ids=[
        "empty",
        "cut",
        "null",
        "nan",
        "list",
        "text",
        "latin",
        "bytes",
        "deep",
        "deep objects",
        "digits",
    ],
)
def test_a_body_that_is_no_request_is_refused(client: TestClient, body: bytes) -> None:
    answer = client.post("/items/embed", content=body, headers=JSON)
    check_problem(answer, 422)


def test_a_body_must_be_json(client: TestClient) -> None:
    check_problem(client.post("/recommend", data={"sequence": "film-1"}), 422)


def test_a_problem_never_repeats_the_attributes(client: TestClient) -> None:
    secret = "very private plot"
    answer = client.post(
        "/items/embed", json={"items": [{"attributes": [secret]}, {"attributes": secret}]}
    )
    check_problem(answer, 422)
    assert secret not in answer.text


def test_an_unknown_item_is_named(client: TestClient) -> None:
    assert "no/such item" in check_problem(client.get("/items/no/such item"), 404)["detail"]
    assert "nobody" in check_problem(client.get("/items/nobody/similar"), 404)["detail"]
    check_problem(client.get("/items/"), 404)


def test_wrong_paths_and_methods_are_problems_too(client: TestClient) -> None:
    check_problem(client.get("/nothing/here"), 404)
    answer = client.get("/recommend")
    check_problem(answer, 405)
    assert answer.headers["allow"] == "POST"


def test_a_bug_is_a_500_that_tells_nothing(
    client: TestClient, app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("internal detail")

    monkeypatch.setattr(type(app.state.served.serving.embedder), "prepare", broken)
    answer = client.post("/items/embed", json={"items": [{"attributes": {"title": "x"}}]})
    check_problem(answer, 500)
    assert "internal detail" not in answer.text


def test_openapi_documents_problems_and_examples(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    operations = [(path, o) for path, item in document["paths"].items() for o in item.values()]
    for path, operation in operations:
        assert operation["summary"], path
        assert operation["tags"], path
        for status, response in operation["responses"].items():
            if status == "204":
                continue
            expected = "application/json" if int(status) < 400 else "application/problem+json"
            if (path, status) == ("/metrics", "200"):
                expected = "text/plain"
            assert list(response["content"]) == [expected], path
            assert "schema" in response["content"][expected]
    assert "HTTPValidationError" not in json.dumps(document)
    body = document["paths"]["/items/embed"]["post"]["requestBody"]["content"]["application/json"]
    assert "films" in body["examples"]


@pytest.mark.parametrize("page", ["/docs", "/redoc"])
def test_the_documentation_asks_no_other_host(client: TestClient, page: str) -> None:
    answer = client.get(page)
    assert answer.status_code == 200
    needed = re.findall(r'(?:src|href)="([^"]+)"', answer.text)
    assert needed
    for path in needed:
        assert client.get(path).status_code == 200, path  # of another host, the tests' has nothing
