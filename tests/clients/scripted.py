"""A server that answers as a script says: what a client does when things go wrong."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

ANSWER = {"bundle": "scripted", "items": [], "unknown": []}


class Handler(BaseHTTPRequestHandler):
    """``PUT /script`` sets what comes next, ``GET /script`` tells how often it was asked since."""

    protocol_version = "HTTP/1.1"
    script: ClassVar[list[dict[str, Any]]] = []
    asked = 0

    def do_GET(self) -> None:
        if self.path == "/script":
            self._send(200, json.dumps({"asked": Handler.asked}))
        else:
            self._next()

    def do_PUT(self) -> None:
        body = self._body()
        if self.path == "/script":
            Handler.script, Handler.asked = json.loads(body), 0
            self._send(200, "{}")
        else:
            self._next()

    def do_POST(self) -> None:
        self._body()
        self._next()

    def do_DELETE(self) -> None:
        self._next()

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("content-length", 0)))

    def _next(self) -> None:
        step = Handler.script[Handler.asked]
        Handler.asked += 1
        if step.get("hang_up"):
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        time.sleep(step.get("delay", 0))
        headers = {"Retry-After": str(step["retry_after"])} if "retry_after" in step else {}
        self._send(step.get("status", 200), step.get("body", json.dumps(ANSWER)), **headers)

    def _send(self, status: int, body: str, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body.encode())))
        self.end_headers()
        with suppress(BrokenPipeError):  # who asked did not wait
            self.wfile.write(body.encode())

    def log_message(self, *_: Any) -> None: ...


@contextmanager
def scripted_server() -> Iterator[str]:
    """Run it; yield its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
