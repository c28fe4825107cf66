"""Traces, as a collector of OpenTelemetry receives them: over HTTP, in protobuf."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from fastapi.testclient import TestClient
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from service_setup import MakeSettings

from service.app import create_app

SECRET = "never to be traced"
NEW = {"title": SECRET, "genres": ["Drama"]}
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector:
    """Receives spans on a port of its own."""

    def __init__(self) -> None:
        self.received: list[bytes] = []
        received = self.received

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                received.append(self.rfile.read(int(self.headers["content-length"])))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    @property
    def resources(self) -> list:
        return [one for part in self.received for one in _parsed(part).resource_spans]

    @property
    def spans(self) -> list[Span]:
        scopes = [scope for one in self.resources for scope in one.scope_spans]
        return [span for scope in scopes for span in scope.spans]


def _parsed(body: bytes) -> ExportTraceServiceRequest:
    found = ExportTraceServiceRequest()
    found.ParseFromString(body)
    return found


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    found = Collector()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", found.url)
    yield found
    found.server.shutdown()


def test_a_request_is_traced_with_every_stage_of_its_work(
    make_settings: MakeSettings, collector: Collector
) -> None:
    app = create_app(make_settings(traces=True))
    with TestClient(app, raise_server_exceptions=False) as client:
        asked = {"sequence": ["film-3", {"attributes": NEW}]}
        parent = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
        assert client.post("/recommend", json=asked, headers=parent).status_code == 200
        client.get("/items/nothing")
    ours = [span for span in collector.spans if span.trace_id.hex() == TRACE]
    (request,) = [span for span in ours if span.kind == Span.SPAN_KIND_SERVER]
    assert request.name == "POST /recommend"
    assert request.parent_span_id.hex() == PARENT
    told = {one.key: one.value for one in request.attributes}
    assert told["http.route"].string_value == "/recommend"
    assert told["http.response.status_code"].int_value == 200
    inside = {span.name for span in ours if span.parent_span_id == request.span_id}
    assert {"cache", "queue", "tokenize", "forward", "adapter", "backbone", "index"} <= inside
    for span in ours:
        assert span.start_time_unix_nano < span.end_time_unix_nano <= request.end_time_unix_nano
    (other,) = [span for span in collector.spans if span.name.startswith("GET /items")]
    assert other.trace_id.hex() != TRACE
    names = {one.key: one.value.string_value for one in collector.resources[0].resource.attributes}
    assert names["service.name"] == "llmemb"


def test_a_fault_of_ours_is_marked_and_nothing_of_an_item_is_traced(
    make_settings: MakeSettings, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = create_app(make_settings(traces=True))
    with TestClient(app, raise_server_exceptions=False) as client:

        def fail(*_: object) -> None:
            raise RuntimeError(f"cannot embed {NEW}")

        monkeypatch.setattr("service.embedder.Embedder.prepare", fail)
        answer = client.post("/items/embed", json={"items": [{"attributes": NEW}]})
        assert answer.status_code == 500
    (span,) = [span for span in collector.spans if span.name == "POST /items/embed"]
    assert span.status.code == Status.STATUS_CODE_ERROR
    assert not any(SECRET.encode() in part for part in collector.received)


def test_log_lines_name_the_trace(
    make_settings: MakeSettings, collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    import json

    from service.observe import JSONLines

    caplog.handler.setFormatter(JSONLines())
    with caplog.at_level("INFO", "service.access"):
        app = create_app(make_settings(traces=True))
        with TestClient(app) as client:
            client.get("/bundle", headers={"traceparent": f"00-{TRACE}-{PARENT}-01"})
    lines = [json.loads(line) for line in caplog.text.splitlines() if line.startswith("{")]
    assert TRACE in {line.get("trace_id") for line in lines}
