"""``llmemb serve`` as a process of its own, for tests of what only a process has."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import redis

# As the installed command, but with this wing alone.
PROGRAM = """
from importlib.metadata import EntryPoint
from llmemb import cli
cli.entry_points = lambda group: [EntryPoint("service", "service.cli:register", group)]
cli.main()
"""
COMMAND = [sys.executable, "-c", PROGRAM, "serve"]
Serve = Callable[..., "Service"]


class Service:
    """A running ``llmemb serve``, on a free port unless one is named."""

    def __init__(self, bundle: Path, state_dir: Path, port: int = 0, **environment: str) -> None:
        self.state_dir = state_dir
        self.process = subprocess.Popen(
            [*COMMAND, str(bundle), "--port", str(port)],
            env={**os.environ, "LLMEMB_STATE_DIR": str(state_dir), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.line = self.process.stdout.readline()
        found = re.search(r"(https?://\S+)/docs", self.line)
        assert found, self.process.communicate(timeout=20)
        self.client = httpx.Client(base_url=found[1], timeout=20)

    def embed(self, title: str) -> dict:
        answer = self.client.post(
            "/items/embed", json={"items": [{"attributes": {"title": title}}]}
        )
        assert answer.status_code == 200, answer.text
        return answer.json()["data"][0]

    def recommend(self) -> int:
        return self.client.post("/recommend", json={"sequence": ["film-5"]}).status_code

    def cache(self) -> str:
        return self.client.get("/health/ready").json()["cache"]

    def valkey_pid(self) -> int:
        with redis.Redis(unix_socket_path=str(self.state_dir / "valkey.sock")) as client:
            return int(client.info("server")["process_id"])

    def end(self, with_signal: signal.Signals = signal.SIGTERM) -> str:
        """Send a signal, and return what went to standard error."""
        self.process.send_signal(with_signal)
        _, stderr = self.process.communicate(timeout=20)
        return stderr
