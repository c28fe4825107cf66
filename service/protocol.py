"""HTTP/1.1 connections with bounds: what comes before a body is read may not be large, slow or endless."""

import asyncio
from functools import partial
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.problems import problem
from service.settings import Settings


def bounded_protocol(settings: Settings) -> Any:
    """Return what uvicorn takes for its ``http``: a protocol with the bounds of the settings."""
    return partial(BoundedProtocol, settings)


class BoundedProtocol(HttpToolsProtocol):
    """One connection.

    Request line and headers must come within a time and a size, and there may be only so many connections.
    uvicorn bounds none of these where httptools parses.
    """

    def __init__(self, settings: Settings, *given: Any, **named: Any) -> None:
        """Take the bounds, and what uvicorn gives to a protocol."""
        super().__init__(*given, **named)
        self._settings = settings
        self._head_bytes = 0
        self._in_head = True
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request."""
        super().connection_made(transport)
        most = self._settings.max_connections
        if len(self.connections) > most:
            self._refuse(503, f"{most:,} connections are open already", retry_after=1)
        else:
            self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._head_came()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on, unless too much came before the end of the headers."""
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if not (self._in_head and self._head_bytes):
            return
        if self._head_bytes > self._settings.max_head_bytes:
            self._refuse_head()
        elif self._timer is None:  # only now: most heads come whole, and need none
            self._await_head()

    def on_headers_complete(self) -> None:
        """Go on to the body, unless the head was too large after all."""
        self._head_came()
        # What has come may hold some of the body, too: only then it is worth while to count.
        size = self._head_bytes
        if size > self._settings.max_head_bytes:
            size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if size > self._settings.max_head_bytes:
            self._refuse_head()
        else:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        if not self.transport.is_closing():
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Expect the next request."""
        if not self.transport.is_closing():
            super().on_message_complete()
        self._in_head, self._head_bytes = True, 0

    def _await_head(self) -> None:
        self._timer = self.loop.call_later(self._settings.head_seconds, self._head_is_late)

    def _head_is_late(self) -> None:
        if self._answering:  # the one before it
            self._await_head()
        else:
            seconds = self._settings.head_seconds
            self._refuse(408, f"no whole request came within {seconds:g} seconds")

    @property
    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _head_came(self) -> None:
        self._in_head = False
        if self._timer:
            self._timer.cancel()
            self._timer = None

    def _refuse_head(self) -> None:
        most = self._settings.max_head_bytes
        self._refuse(431, f"request line and headers are larger than {most:,} bytes")

    def _refuse(self, status: int, detail: str, *, retry_after: int | None = None) -> None:
        """Answer a problem, without a request that could be answered, and hang up."""
        self._head_came()
        if self.transport.is_closing() or self._answering:
            self.transport.close()
            return
        answer = problem(status, detail, retry_after=retry_after, headers={"Connection": "close"})
        head = [f"HTTP/1.1 {status} \r\n".encode()]
        head += [name + b": " + value + b"\r\n" for name, value in answer.raw_headers]
        self.transport.write(b"".join([*head, b"\r\n", bytes(answer.body)]))
        self.transport.close()
