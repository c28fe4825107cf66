"""What happens to a request before a route sees it: it is counted, and its body is read and measured.

A request whose client hangs up is ended early.
"""

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.problems import problem
from service.traffic import Traffic

RETRY_SECONDS = 1
LOOK_SECONDS = 0.05
WATCHED_AFTER_SECONDS = 0.05  # what is answered sooner needs nobody to see whether its client left
OPERATORS = ("/health/", "/metrics")
DISCARDED_BODIES = 8  # times the limit; read and dropped, so that the client gets to see the answer


class Intake:
    """ASGI middleware that bounds requests in progress and the size of their bodies."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        traffic: Traffic,
        max_requests: int,
        max_body_bytes: int,
        body_seconds: float,
    ) -> None:
        """Take the limits; what operators ask is not counted, so that it is answered under any load."""
        self._app = app
        self._traffic = traffic
        self._max_requests = max_requests
        self._max_body_bytes = max_body_bytes
        self._body_seconds = body_seconds
        self._clients: set[_Client] = set()
        self._timer: asyncio.TimerHandle | None = None  # of the next look, while there are any

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 503, 429, 413 or 408, or pass the request on with its whole body at hand."""
        if scope["type"] != "http" or scope["path"].startswith(OPERATORS):
            await self._app(scope, receive, send)
            return
        if self._traffic.draining:
            answer = problem(503, "the service is stopping", retry_after=RETRY_SECONDS)
            await answer(scope, receive, send)
            return
        if self._traffic.in_progress >= self._max_requests:
            detail = f"{self._traffic.in_progress} requests are in progress already"
            await problem(429, detail, retry_after=RETRY_SECONDS)(scope, receive, send)
            return
        with self._traffic:
            await self._admit(scope, receive, send)

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        client = _Client(receive)
        self._clients.add(client)
        if self._timer is None:
            self._look()
        try:
            body = await self._read(scope, receive)
            if body is None:
                detail = f"the body is larger than {self._max_body_bytes:,} bytes"
                await problem(413, detail)(scope, receive, send)
                return
            client.reading = False
            unread: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

            async def replay() -> Message:
                return unread.pop() if unread else await client.hung_up()

            await self._app(scope, replay, send)
        except _HungUpError:
            pass
        except asyncio.CancelledError:
            if client.late:
                client.go_on()
                detail = f"the body did not come within {self._body_seconds:g} seconds"
                await problem(408, detail, headers={"Connection": "close"})(scope, receive, send)
            elif not client.gone:
                raise
        finally:
            self._clients.discard(client)
            client.forget()

    def _look(self) -> None:
        """See to what takes long: by one timer for all, as one each would cost as much as a fast answer."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        for client in self._clients:
            if client.reading and now - client.began > self._body_seconds:
                client.end_late()
            elif not client.reading and now - client.began > WATCHED_AFTER_SECONDS:
                client.watch()
        self._timer = loop.call_later(LOOK_SECONDS, self._look) if self._clients else None

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


class _Client:
    """Ends the task that answers a client once that client hangs up.

    Nobody reads the answer any more, and its items must not stay in the model's queue.

    Attributes:
        began: by the clock of the event loop.
        reading: whether its body is still to come.
        late: whether that took too long.
        gone: whether it hung up.
    """

    def __init__(self, receive: Receive) -> None:
        """Take what tells of the client; the task that answers is the one that runs now."""
        self.began = asyncio.get_running_loop().time()
        self.reading = True
        self.late = self.gone = False
        self._receive = receive
        self._answering = asyncio.current_task()
        self._watcher: asyncio.Task[None] | None = None

    async def hung_up(self) -> Message:
        """Wait until the client hangs up."""
        await asyncio.shield(self.watch())
        return {"type": "http.disconnect"}

    def watch(self) -> asyncio.Task[None]:
        """See from now on whether it hangs up."""
        self._watcher = self._watcher or asyncio.create_task(self._wait())
        return self._watcher

    def end_late(self) -> None:
        """End the wait for its body."""
        if self._answering and not self.late:
            self.late = True
            self._answering.cancel()

    def go_on(self) -> None:
        """Take it that the task was not cancelled."""
        if self._answering:
            self._answering.uncancel()

    def forget(self) -> None:
        """Stop watching."""
        if self._watcher:
            self._watcher.cancel()
        if self.gone:
            self.go_on()

    async def _wait(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.gone = True
        if self._answering:
            self._answering.cancel()
