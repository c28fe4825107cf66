"""Access: which key may ask what, how often, and that the file of keys may change at any time."""

import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from pydantic import ValidationError
from service_setup import MakeSettings, eventually
from typer.testing import CliRunner

from llmemb.cli import build_app
from llmemb.errors import SettingsError
from service import keys
from service.app import create_app
from service.keys import Keys, add_key, read_keys, remove_key
from service.valkey import ValkeyServer

ROUTES = {  # every route, and the least that a key must be for it; None: anybody may
    "GET /health/live": None,
    "GET /health/ready": None,
    "GET /metrics": "read",
    "GET /bundle": "read",
    "GET /bundle/map": "read",
    "POST /items/embed": "read",
    "POST /items/explain": "read",
    "POST /items/similar": "read",
    "GET /items/{item_id}/similar": "read",
    "GET /items": "read",
    "GET /items/{item_id}": "read",
    "POST /items": "write",
    "PUT /items/{item_id}": "write",
    "DELETE /items/{item_id}": "write",
    "POST /recommend": "read",
    "POST /recommend/batch": "read",
    "POST /v1/embeddings": "read",
    "GET /v1/models": "read",
    "GET /v1/models/{name}": "read",
    "POST /admin/reload": "admin",
    "POST /admin/rollback": "admin",
}
ASKED = {"sequence": ["film-4"], "k": 3}


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(keys, "LOOK_SECONDS", 0.0)
    return tmp_path / "keys.json"


@pytest.fixture
def tokens(file: Path) -> dict[str, str]:
    return {scope: add_key(file, f"one-that-may-{scope}", scope, None) for scope in keys.SCOPES}


@pytest.fixture
def client(make_settings: MakeSettings, file: Path, tokens: dict[str, str]) -> Iterator[TestClient]:
    app = create_app(make_settings(keys_file=file, host="0.0.0.0"))
    with TestClient(app, raise_server_exceptions=False) as running:
        yield running


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def test_every_route_is_answered_to_those_who_may_and_to_nobody_else(
    client: TestClient, tokens: dict[str, str]
) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    found = {f"{method.upper()} {path}" for path, one in paths.items() for method in one}
    assert found == ROUTES.keys()
    for route, least in ROUTES.items():
        method, path = route.split()
        path = re.sub(r"\{\w+\}", "none", path)
        callers: dict[str | None, dict[str, str]] = {
            None: {},
            "wrong": bearer("llmemb_" + "x" * 43),
            **{scope: bearer(token) for scope, token in tokens.items()},
        }
        for who, headers in callers.items():
            status = client.request(method, path, headers=headers, content=b"{").status_code
            if least is None:
                assert status == 200, (route, who)
            elif who in (None, "wrong"):
                assert status == 401, (route, who)
            elif keys.SCOPES.index(who) < keys.SCOPES.index(least):
                assert status == 403, (route, who)
            else:
                assert status not in (401, 403, 500), (route, who)


@pytest.mark.parametrize("header", ["Bearer {}", "bearer  {} ", "X-API-Key"])
def test_a_key_comes_in_either_header(
    client: TestClient, tokens: dict[str, str], header: str
) -> None:
    name, value = ("Authorization", header) if "{}" in header else (header, "{}")
    headers = {name: value.format(tokens["read"])}
    assert client.post("/recommend", json=ASKED, headers=headers).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Basic dXNlcjpwYXNz"},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer a b"},
        {"X-API-Key": ""},
        {"X-API-Key": "\xff\xfe"},
    ],
)
def test_who_brings_no_good_key_is_told_what_is_wanted(
    client: TestClient, headers: dict[str, str]
) -> None:
    given = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    answer = client.post("/recommend", json=ASKED, headers=given)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert answer.headers["content-type"] == "application/problem+json"


def test_openai_clients_are_told_in_their_own_form(client: TestClient) -> None:
    answer = client.post("/v1/embeddings", json={"model": "tiny", "input": "x"})
    assert answer.status_code == 401
    assert answer.json()["error"]["message"]


def test_the_openapi_document_tells_of_keys(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    assert document["components"]["securitySchemes"].keys() == {"bearer", "key"}
    assert document["paths"]["/recommend"]["post"]["security"]
    assert "401" in document["paths"]["/recommend"]["post"]["responses"]
    assert "security" not in document["paths"]["/health/live"]["get"]


def test_keys_come_and_go_while_the_service_runs(
    client: TestClient, file: Path, tokens: dict[str, str]
) -> None:
    def status(token: str) -> int:
        return client.post("/recommend", json=ASKED, headers=bearer(token)).status_code

    new = add_key(file, "new", "read", None)
    assert (status(new), status(tokens["read"])) == (200, 200)
    remove_key(file, "one-that-may-read")
    assert (status(new), status(tokens["read"])) == (200, 401)


def test_a_file_that_is_damaged_meanwhile_locks_nobody_out_and_lets_nobody_in(
    client: TestClient, file: Path, tokens: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    for content in ('{"keys": [', None):
        file.unlink()
        if content is not None:
            file.write_text(content)
        answer = client.post("/recommend", json=ASKED, headers=bearer(tokens["read"]))
        assert answer.status_code == 200
        assert client.post("/recommend", json=ASKED).status_code == 401
        assert "the keys that were good before still are" in caplog.text
        caplog.clear()


def test_a_file_holds_no_key_and_is_its_owners_alone(file: Path, tokens: dict[str, str]) -> None:
    content = file.read_text()
    assert all(token not in content for token in tokens.values())
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert len(set(tokens.values())) == 3


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "llmemb keys add"),
        ("[]", "not a file of keys"),
        ('{"keys": [{"name": "a", "scope": "root", "sha256": "secret"}]}', "keys.0.scope"),
    ],
)
def test_a_file_that_cannot_be_used_ends_the_start_and_is_not_repeated(
    make_settings: MakeSettings, file: Path, content: str | None, told: str
) -> None:
    if content is not None:
        file.write_text(content)
    with pytest.raises(SettingsError, match=told) as error:
        create_app(make_settings(keys_file=file))
    assert "secret" not in str(error.value)


def test_an_address_that_others_reach_is_not_listened_on_without_keys(
    make_settings: MakeSettings, file: Path
) -> None:
    for host in ("0.0.0.0", "::", "192.168.0.7", "example.org"):
        with pytest.raises(ValidationError, match="LLMEMB_KEYS_FILE"):
            make_settings(host=host)
        make_settings(host=host, open=True)
        make_settings(host=host, keys_file=file)
    for host in ("127.0.0.1", "::1", "localhost"):
        make_settings(host=host)


def test_a_key_has_its_turns_on_all_replicas_together(
    make_settings: MakeSettings, file: Path, valkey: ValkeyServer
) -> None:
    limited, free = add_key(file, "limited", "read", 30), add_key(file, "free", "read", None)
    url = f"redis://127.0.0.1:{valkey.port}/0"
    apps = [create_app(make_settings(keys_file=file, redis_url=url)) for _ in range(2)]
    with TestClient(apps[0]) as one, TestClient(apps[1]) as other:

        def ask(client: TestClient, token: str) -> Any:
            return client.post("/recommend", json=ASKED, headers=bearer(token))

        answers = [ask(client, limited) for _ in range(6) for client in (one, other)]
        statuses = [answer.status_code for answer in answers]
        # Ten seconds' worth at once, and what came due meanwhile.
        assert 5 <= statuses.count(200) <= 7
        assert statuses.count(429) == len(statuses) - statuses.count(200)
        refused = next(answer for answer in answers if answer.status_code == 429)
        assert 1 <= int(refused.headers["retry-after"]) <= 2
        assert ask(one, free).status_code == 200
        valkey.terminate()
        eventually(lambda: ask(one, limited).status_code == 200)  # nobody counts now


def test_pages_of_other_origins_may_ask_only_if_that_is_set(
    make_settings: MakeSettings, file: Path, tokens: dict[str, str]
) -> None:
    asked = {"Origin": "https://shop.example", "Access-Control-Request-Method": "POST"}
    for origins, allowed in (("", None), ("https://shop.example", "https://shop.example")):
        app = create_app(make_settings(keys_file=file, cors_origins=origins))
        answer = TestClient(app).options("/recommend", headers=asked)
        assert answer.headers.get("access-control-allow-origin") == allowed
        assert (answer.status_code == 200) == (allowed is not None)


def test_the_command_makes_lists_and_removes_keys(file: Path) -> None:
    def llmemb(*arguments: str) -> Any:
        return CliRunner().invoke(build_app(), ["keys", *arguments, "--file", str(file)])

    made = llmemb("add", "shop", "--scope", "write", "--per-minute", "60")
    assert made.exit_code == 0
    found = Keys(file).find(made.stdout.strip().encode())
    assert found is not None
    assert (found.name, found.scope, found.per_minute) == ("shop", "write", 60)
    assert "shop" in llmemb("list").stdout
    for wrong in (
        ("add", "shop"),
        ("add", "a b"),
        ("add", "b", "--scope", "root"),
        ("remove", "x"),
    ):
        assert isinstance(llmemb(*wrong).exception, SettingsError)
    assert llmemb("remove", "shop").exit_code == 0
    assert read_keys(file) == []
