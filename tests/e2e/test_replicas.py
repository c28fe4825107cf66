"""Replicas behind the proxy of the compose profile `replicas`: what a client sees when one ends.

The proxy and the services are real processes; the services have a tiny bundle, and no Redis.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from ports import free_port
from proxy_process import CONFIGURATION, HAPROXY, proxy
from service_process import Serve, Service

from service.access import needed_scope

ROOT = Path(__file__).parents[2]
HOSTS = ["127.0.0.2", "127.0.0.3"]
CLIENTS = 4
DRAIN = 1.5  # seconds; the proxy needs one to see it
SEQUENCE = {"sequence": ["film-4", {"attributes": {"title": "A film of today"}}], "k": 5}
ITEM = {"items": [{"attributes": {"title": "A film of tomorrow"}}]}

needs_proxy = pytest.mark.skipif(
    HAPROXY is None or sys.platform != "linux",
    reason="needs haproxy, and a machine that has all of 127.0.0.0/8 (Debian: apt-get install haproxy)",
)


@dataclass
class Proxied:
    """Replicas, and the proxy's address."""

    url: str
    start: Callable[[int], Service]
    replicas: list[Service] = field(default_factory=list)

    def start_again(self, i: int) -> None:
        """Start the replica anew, and wait until the proxy must have seen it twice."""
        self.replicas[i] = self.start(i)
        time.sleep(2)


@pytest.fixture(scope="module")
def proxied(serve: Serve) -> Iterator[Proxied]:
    port, replica_port = free_port(), free_port()

    def start(i: int) -> Service:
        return serve(
            replica_port,
            LLMEMB_HOST=HOSTS[i],
            LLMEMB_DRAIN_SECONDS=str(DRAIN),
            LLMEMB_REDIS_URL="redis://127.0.0.1:1/0",  # where none is
        )

    with proxy(port, HOSTS, replica_port):
        found = Proxied(f"http://127.0.0.1:{port}", start)
        found.replicas = [start(0), start(1)]
        wait_until(lambda: httpx.get(f"{found.url}/health/ready").status_code == 200)
        time.sleep(2)
        yield found


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


@dataclass(frozen=True)
class Asked:
    began: float
    ended: float
    status: int  # 0: no answer


@contextmanager
def light_load(url: str) -> Iterator[list[Asked]]:
    """Recommend and embed until the block ends; all that was asked is in the list then."""
    asked: list[Asked] = []
    enough = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=url, timeout=20) as client:
            while not enough.wait(0.02):
                for path, body in (("/recommend", SEQUENCE), ("/items/embed", ITEM)):
                    began = time.monotonic()
                    try:
                        status = client.post(path, json=body).status_code
                    except httpx.TransportError:
                        status = 0
                    asked.append(Asked(began, time.monotonic(), status))

    with ThreadPoolExecutor(CLIENTS) as pool:
        running = [pool.submit(ask) for _ in range(CLIENTS)]
        try:
            yield asked
        finally:
            enough.set()
    for one in running:
        one.result()


def recommended(replica: Service) -> float:
    lines = replica.client.get("/metrics").text.splitlines()
    return sum(
        float(line.split()[-1])
        for line in lines
        if line.startswith("llmemb_requests_total{") and '"/recommend"' in line
    )


@needs_proxy
def test_no_client_is_tied_to_a_replica(proxied: Proxied) -> None:
    before = [recommended(replica) for replica in proxied.replicas]
    with httpx.Client(base_url=proxied.url) as client:
        for _ in range(20):
            assert client.post("/recommend", json=SEQUENCE).status_code == 200
    after = [recommended(replica) for replica in proxied.replicas]
    assert [now - then for then, now in zip(before, after, strict=True)] == [10, 10]


@needs_proxy
def test_a_killed_replica_fails_no_request_but_those_in_flight(proxied: Proxied) -> None:
    with light_load(proxied.url) as asked:
        time.sleep(0.5)
        proxied.replicas[0].process.kill()
        killed = time.monotonic()
        time.sleep(1)
        proxied.start_again(0)
    assert len(asked) > 100
    assert [
        one for one in asked if one.status != 200 and not one.began <= killed <= one.ended
    ] == []


@needs_proxy
def test_a_replica_that_stops_fails_no_request(proxied: Proxied) -> None:
    with light_load(proxied.url) as asked:
        time.sleep(0.5)
        proxied.replicas[0].end(signal.SIGTERM)
        time.sleep(0.5)
        proxied.start_again(0)
    assert len(asked) > 100
    assert {one.status for one in asked} == {200}


@needs_proxy
def test_what_a_replica_answers_passes_as_it_is(proxied: Proxied) -> None:
    answer = httpx.put(f"{proxied.url}/items/new", json={"attributes": {"title": "New"}})
    assert answer.status_code == 503
    assert answer.headers["Retry-After"] == "1"
    assert answer.headers["X-Request-ID"]
    assert "the catalogue has not been read yet" in answer.json()["detail"]


@needs_proxy
def test_one_replica_alone_is_not_given_another_bundle(proxied: Proxied) -> None:
    answer = httpx.post(f"{proxied.url}/admin/reload", json={})
    assert answer.status_code == 403
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["status"] == 403


@needs_proxy
def test_without_a_replica_it_says_when_to_come_back() -> None:
    port = free_port()
    with proxy(port, [], free_port()):
        url = f"http://127.0.0.1:{port}/recommend"
        wait_until(lambda: httpx.post(url, json=SEQUENCE).status_code == 503)
        answer = httpx.post(url, json=SEQUENCE)
    assert answer.headers["Retry-After"] == "1"
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["status"] == 503


@needs_proxy
def test_a_change_that_broke_off_is_not_made_twice() -> None:
    """Services that are healthy and hang up on every request, once they have read it."""
    port, replica_port = free_port(), free_port()
    asked: list[str] = []

    class HangsUp(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            asked.append(f"{self.command} {self.path}")
            self.close_connection = True

        do_PUT = do_DELETE = do_POST  # noqa: N815 (as http.server names them)

        def log_message(self, *_: object) -> None:
            pass

    servers = [ThreadingHTTPServer((host, replica_port), HangsUp) for host in HOSTS]
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with proxy(port, HOSTS, replica_port):
            url = f"http://127.0.0.1:{port}"
            wait_until(lambda: httpx.get(f"{url}/health/ready").status_code == 200)
            changes = [("POST", "/items"), ("PUT", "/items/a"), ("DELETE", "/items/a")]
            for method, path in changes:
                answer = httpx.request(method, url + path, content=b"{}")
                assert answer.status_code == 502
                assert "not known" in answer.json()["detail"]
            assert asked == [f"{method} {path}" for method, path in changes]
            asked.clear()
            assert httpx.post(f"{url}/recommend", content=b"{}").status_code == 502
            assert asked == ["POST /recommend"] * 3
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()


def test_what_the_proxy_asks_again_is_all_that_only_reads() -> None:
    lines = [line.split() for line in CONFIGURATION.read_text().splitlines()]
    (posts,) = (line[3:] for line in lines if line[:3] == ["acl", "posted_to_read", "path"])
    document = json.loads((ROOT / "clients/openapi.json").read_bytes())
    assert set(posts) == {
        path
        for path, operations in document["paths"].items()
        if "post" in operations and needed_scope("POST", path) == "read"
    }


@needs_proxy
def test_its_configuration_gives_no_warning() -> None:
    assert HAPROXY is not None
    done = subprocess.run(
        [HAPROXY, "-c", "-f", CONFIGURATION],
        capture_output=True,
        text=True,
        env={**os.environ, "PROXY_DNS": "127.0.0.1:53"},
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
