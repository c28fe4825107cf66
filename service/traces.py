"""Traces: a span for each request and, within it, one for each stage of its work.

OpenTelemetry's own environment variables say where they go (``OTEL_EXPORTER_OTLP_ENDPOINT``; OTLP over HTTP),
which are kept (``OTEL_TRACES_SAMPLER``) and by what name (``OTEL_SERVICE_NAME``). Needs the extra `traces`.
"""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from llmemb.errors import SettingsError

if TYPE_CHECKING:
    from opentelemetry.trace import Span

HTTP_ERROR = 500  # from here on the fault is ours


class Traces:
    """Where spans begin, and from where they are sent, in the background."""

    def __init__(self) -> None:
        """Begin to collect.

        Raises:
            SettingsError: OpenTelemetry is not installed.
        """
        try:
            from opentelemetry import propagate, trace
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import OTELResourceDetector, Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError as error:
            raise SettingsError(
                "LLMEMB_TRACES needs the extra `traces`: pip install 'llmemb[traces]'"
            ) from error
        named = Resource({"service.name": "llmemb"}).merge(OTELResourceDetector().detect())
        self._provider = TracerProvider(resource=named)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("llmemb")
        self._api, self._propagate = trace, propagate

    def close(self) -> None:
        """Send what was not sent yet; takes a while where nobody is there to take it."""
        self._provider.shutdown()

    @contextmanager
    def request(self, method: str, headers: Iterable[tuple[bytes, bytes]]) -> Iterator["Span"]:
        """Trace a request; it goes on the trace that its ``traceparent`` names (W3C Trace Context)."""
        given = {name.decode("latin-1"): value.decode("latin-1") for name, value in headers}
        with self._tracer.start_as_current_span(
            method,
            context=self._propagate.extract(given),
            kind=self._api.SpanKind.SERVER,
            record_exception=False,  # its message may quote an item
            set_status_on_exception=False,
        ) as span:
            yield span

    def answered(self, span: "Span", method: str, route: str, status: int) -> None:
        """Note on a request's span what came of it."""
        span.update_name(f"{method} {route}")
        span.set_attribute("http.request.method", method)
        span.set_attribute("http.route", route)
        span.set_attribute("http.response.status_code", status)
        if status >= HTTP_ERROR:
            span.set_status(self._api.StatusCode.ERROR)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Trace a stage of the request's work that runs now."""
        with self._tracer.start_as_current_span(
            name, record_exception=False, set_status_on_exception=False
        ):
            yield

    def current(self) -> "Span":
        """Return the span that runs now, for :meth:`ended`."""
        return self._api.get_current_span()

    def ended(self, name: str, seconds: float, spans: Iterable["Span"]) -> None:
        """Trace a stage that has just ended and took so long, within each of some spans."""
        now = time.time_ns()
        for span in set(spans):
            context = self._api.set_span_in_context(span)
            began = now - round(seconds * 1e9)
            self._tracer.start_span(name, context=context, start_time=began).end(now)


def trace_id(span: "Span") -> str:
    """Return the id of a span's trace, as logs and other programs name it."""
    return f"{span.get_span_context().trace_id:032x}"
