"""Every request has an id, is counted by its route, and leaves one line in the log.

What a line may hold is listed here: never attributes, never a key, never a path that a user made up.
"""

import json
import logging
import os
import re
import time
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.problems import problem
from service.telemetry import Metrics
from service.traces import Traces, trace_id

if TYPE_CHECKING:
    from opentelemetry.trace import Span

REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
NO_ANSWER = 499  # nobody was there to take it
NO_ROUTE = "none"  # so that paths that nobody serves do not fill the metrics

log = logging.getLogger("service.access")
request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
traced: ContextVar[str | None] = ContextVar("traced", default=None)


class Observe:
    """ASGI middleware, the outermost: what it sees is what the client gets."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics, traces: Traces | None) -> None:
        """Take where to count, and where to trace."""
        self._app = app
        self._metrics = metrics
        self._traces = traces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and tell of it when it is answered."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif self._traces is None:
            await self._observe(scope, receive, send)
        else:
            with self._traces.request(scope["method"], scope["headers"]) as span:
                traced.set(trace_id(span))
                await self._observe(scope, receive, send, span)

    async def _observe(
        self, scope: Scope, receive: Receive, send: Send, span: "Span | None" = None
    ) -> None:
        given = dict(scope["headers"]).get(b"x-request-id", b"")
        name = given if REQUEST_ID.fullmatch(given) else os.urandom(16).hex().encode()
        request_id.set(name.decode())
        began = time.perf_counter()
        status = NO_ANSWER

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), (b"x-request-id", name)]
            await send(message)

        try:
            await self._app(scope, receive, sending)
        except Exception:
            if status != NO_ANSWER:  # it has begun
                raise
            log.exception("the service failed on a request")
            detail = "the service failed on this request; its log says how"
            answer = problem(500, detail, for_openai=scope["path"].startswith("/v1/"))
            await answer(scope, receive, sending)
        finally:
            seconds = time.perf_counter() - began
            route = getattr(scope.get("route"), "path", NO_ROUTE)
            self._metrics.count_request(route, scope["method"], status, seconds)
            if self._traces and span:
                self._traces.answered(span, scope["method"], route, status)
            if log.isEnabledFor(logging.INFO):
                told = {
                    "method": scope["method"],
                    "route": route,
                    "status": status,
                    "ms": round(seconds * 1e3, 2),
                    "key": scope.get("key"),
                }
                log.info("%(method)s %(route)s %(status)s %(ms)s ms", told, extra={"told": told})


class JSONLines(logging.Formatter):
    """One JSON object a line, with the ids of the request and the trace that it belongs to."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line: dict[str, Any] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "request_id": request_id.get(),
            "trace_id": traced.get(),
            **getattr(record, "told", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps({name: value for name, value in line.items() if value is not None})


def set_up_logging(form: str, level: str) -> None:
    """Make the process log to standard error.

    Args:
        form: ``text`` or ``json``.
        level: what is told at least, as :mod:`logging` names it, in lower case.
    """
    handler = logging.StreamHandler()
    if form == "json":
        handler.setFormatter(JSONLines())
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    for name in ("service", "llmemb"):
        logging.getLogger(name).setLevel(level.upper())
