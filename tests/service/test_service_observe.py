"""What operators see: metrics of requests, of stages and of what users are shown; and the log."""

import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from service_setup import MakeSettings, metric

from service import telemetry
from service.app import create_app
from service.observe import JSONLines
from service.telemetry import STAGES, Coverage

OBSERVABILITY = Path(__file__).parents[2] / "docker" / "observability"
SECRET = "never to be logged"
NEW = {"title": SECRET, "genres": ["Drama"]}


@pytest.fixture
def client(make_settings: MakeSettings) -> Iterator[TestClient]:
    with TestClient(create_app(make_settings()), raise_server_exceptions=False) as running:
        yield running


def test_requests_are_counted_by_route_and_never_by_path(client: TestClient) -> None:
    for path in ("/items/film-3", "/items/film-4", "/nowhere/1", "/nowhere/2"):
        client.get(path)
    labels = 'route="/items/{item_id:path}",method="GET",status="200"'
    labels = ",".join(sorted(labels.split(",")))
    text = client.get("/metrics").text
    lines = [one for one in text.splitlines() if one.startswith("llmemb_requests_total")]
    counted = {",".join(sorted(re.findall(r'\w+="[^"]*"', one))): one.split()[-1] for one in lines}
    assert counted[labels] == "2.0"
    assert counted['method="GET",route="none",status="404"'] == "2.0"
    assert "film-3" not in text
    assert "nowhere" not in text


def test_a_fault_of_ours_is_answered_counted_and_logged(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("service.embedder.Embedder.prepare", fail)
    body = {"items": [{"attributes": NEW}]}
    answer = client.post("/items/embed", json=body, headers={"x-request-id": "mine"})
    assert answer.status_code == 500
    assert answer.json()["status"] == 500
    assert answer.headers["x-request-id"] == "mine"
    labels = 'method="POST",route="/items/embed",status="500"'
    assert metric(client, f"llmemb_requests_total{{{labels}}}") == 1
    assert "a bug" in caplog.text


def test_every_stage_of_the_work_is_timed(client: TestClient) -> None:
    client.post("/recommend", json={"sequence": ["film-3", {"attributes": NEW}]})
    for stage in STAGES:
        assert metric(client, f'llmemb_stage_seconds_count{{stage="{stage}"}}') >= 1, stage


def test_what_users_are_shown_is_told_by_kind(client: TestClient) -> None:
    client.put("/items/new", json={"attributes": NEW})
    asked = {"sequence": ["film-3", "unknown", {"attributes": NEW}], "k": 1000}
    shown = client.post("/recommend", json=asked).json()["items"]
    client.post("/recommend", json={"sequence": ["unknown"], "k": 1})

    def told(name: str) -> float:
        return metric(client, f"llmemb_{name}")

    kinds = {
        kind: told(f'recommended_items_total{{arm="main",kind="{kind}"}}')
        for kind in ("head", "tail", "cold")
    }
    assert sum(kinds.values()) == len(shown) + 1
    assert kinds["head"] == 8 + 1  # a fifth of 40 films, and the most popular one
    assert kinds["cold"] >= 2
    assert told('recommendations_total{arm="main",source="model"}') == 1
    assert told('recommendations_total{arm="main",source="popular"}') == 1
    entries = {kind: told(f'sequence_entries_total{{kind="{kind}"}}') for kind in ("known", "cold")}
    assert entries == {"known": 1, "cold": 1}
    assert told('sequence_entries_total{kind="unknown"}') == 2
    assert told("recommended_new_item_age_seconds_count") == 1
    assert told("recommended_distinct_items") == len(shown)
    assert told("catalogue_items") == 41


def test_coverage_forgets_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 0.0
    monkeypatch.setattr(telemetry.time, "monotonic", lambda: clock)
    coverage = Coverage()
    for item in ("a", "b", "c"):
        coverage.add([item])
        clock += telemetry.COVERAGE_SECONDS
    assert coverage.distinct() == 1
    clock += 2 * telemetry.COVERAGE_SECONDS
    assert coverage.distinct() == 0


@pytest.mark.parametrize(
    ("given", "kept"), [("order-66", True), ("a b", False), ("x" * 200, False), (None, False)]
)
def test_every_answer_has_a_request_id(client: TestClient, given: str | None, kept: bool) -> None:
    headers = {} if given is None else {"X-Request-ID": given}
    for path in ("/health/live", "/nowhere"):
        found = client.get(path, headers=headers).headers["x-request-id"]
        assert (found == given) == kept
        assert re.fullmatch(r"[A-Za-z0-9._-]{1,128}", found)


def test_a_line_of_the_log_names_the_request_and_not_what_it_held(
    client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "service.access")
    headers = {"X-Request-ID": "order-66", "X-API-Key": SECRET}
    client.put(f"/items/{SECRET}", json={"attributes": NEW}, headers=headers)
    (record,) = [one for one in caplog.records if one.name == "service.access"]
    line = json.loads(JSONLines().format(record))
    assert line["route"] == "/items/{item_id:path}"
    assert (line["method"], line["status"], line["level"]) == ("PUT", 201, "INFO")
    assert line["ms"] > 0
    assert SECRET not in json.dumps(line)
    assert SECRET not in caplog.text


def test_alerts_and_dashboard_ask_for_metrics_that_there_are(client: TestClient) -> None:
    client.post("/recommend", json={"sequence": ["film-3"], "k": 2})
    lines = client.get("/metrics").text.splitlines()
    there = {one.split("{")[0].split()[0] for one in lines if not one.startswith("#")}
    there |= {one.split()[2] for one in lines if one.startswith("# TYPE")}
    files = [OBSERVABILITY / "alerts.yml", *OBSERVABILITY.glob("grafana/dashboards/*.json")]
    assert len(files) == 2
    for file in files:
        asked = set(re.findall(r"\bllmemb_\w+", file.read_text(encoding="utf-8")))
        families = {re.sub(r"_(bucket|sum|count|total)$", "", one) for one in asked}
        assert families
        assert families <= {re.sub(r"_total$", "", one) for one in there}, file.name
