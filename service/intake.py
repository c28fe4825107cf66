"""What happens to a request before a route sees it: it is counted, and its body is read and measured.

A request whose client hangs up is ended early.
"""

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.problems import problem

RETRY_SECONDS = 1
DISCARDED_BODIES = 8  # times the limit; read and dropped, so that the client gets to see the answer


class Intake:
    """ASGI middleware that bounds requests in progress and the size of their bodies."""

    def __init__(self, app: ASGIApp, *, max_requests: int, max_body_bytes: int) -> None:
        """Take the limits; health checks are not counted, so that they answer under any load."""
        self._app = app
        self._max_requests = max_requests
        self._max_body_bytes = max_body_bytes
        self._in_progress = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 429 or 413, or pass the request on with its whole body at hand."""
        if scope["type"] != "http" or scope["path"].startswith("/health/"):
            await self._app(scope, receive, send)
            return
        if self._in_progress >= self._max_requests:
            detail = f"{self._in_progress} requests are in progress already"
            await problem(429, detail, retry_after=RETRY_SECONDS)(scope, receive, send)
            return
        self._in_progress += 1
        try:
            await self._admit(scope, receive, send)
        finally:
            self._in_progress -= 1

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            body = await self._read(scope, receive)
        except _HungUpError:
            return
        if body is None:
            detail = f"the body is larger than {self._max_body_bytes:,} bytes"
            await problem(413, detail)(scope, receive, send)
            return
        hang_up = asyncio.create_task(_hang_up(receive))
        unread: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return unread.pop() if unread else await asyncio.shield(hang_up)

        answer = asyncio.ensure_future(self._app(scope, replay, send))
        try:
            await asyncio.wait({answer, hang_up}, return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                answer.result()
        finally:
            # Nobody reads the answer any more: its items must not stay in the model's queue.
            hang_up.cancel()
            answer.cancel()
            await asyncio.gather(hang_up, answer, return_exceptions=True)

    async def _read(self, scope: Scope, receive: Receive) -> bytes | None:
        """Return the whole body, or None where it is over the limit."""
        stated = dict(scope["headers"]).get(b"content-length", b"0")
        most = self._max_body_bytes * DISCARDED_BODIES
        if stated.isdigit() and int(stated) > most:
            return None
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _HungUpError
            part = message.get("body", b"")
            size += len(part)
            if size <= self._max_body_bytes:
                parts.append(part)
            if not message.get("more_body", False) or size > most:
                return b"".join(parts) if size <= self._max_body_bytes else None


class _HungUpError(Exception):
    """The client went away before its body was complete."""


async def _hang_up(receive: Receive) -> Message:
    while (message := await receive())["type"] != "http.disconnect":
        pass
    return message
