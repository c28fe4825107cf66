"""Connections: large, slow, broken and too many ones are refused, and others go on."""

import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from service_process import Serve, Service

HEAD = b"GET /health/live HTTP/1.1\r\nHost: x\r\n"


@pytest.fixture(scope="module")
def service(serve: Serve) -> Service:
    return serve(
        LLMEMB_HEAD_SECONDS="1",
        LLMEMB_BODY_SECONDS="1",
        LLMEMB_MAX_HEAD_BYTES="4096",
        LLMEMB_MAX_CONNECTIONS="20",
    )


@pytest.fixture
def connection(service: Service) -> Iterator[socket.socket]:
    with connected(service) as found:
        yield found


def connected(service: Service) -> socket.socket:
    url = service.client.base_url
    return socket.create_connection((url.host, url.port), timeout=10)


def answer(connection: socket.socket) -> bytes:
    """Return all that comes until the service hangs up."""
    parts = []
    while part := connection.recv(65536):
        parts.append(part)
    return b"".join(parts)


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /" + b"x" * 5000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        HEAD + b"X-Long: " + b"x" * 5000,
        b"".join([HEAD, *(b"X-%d: x\r\n" % i for i in range(1000))]),
    ],
)
def test_a_head_that_is_too_large_is_a_431(connection: socket.socket, sent: bytes) -> None:
    connection.sendall(sent)
    found = answer(connection)
    assert found.startswith(b"HTTP/1.1 431 ")
    assert b"application/problem+json" in found
    assert b"4,096" in found


def test_a_head_in_time_and_size_is_answered_however_it_comes(connection: socket.socket) -> None:
    for part in (HEAD[:9], HEAD[9:], b"Connection: close\r\n", b"\r\n"):
        connection.sendall(part)
        time.sleep(0.05)
    assert answer(connection).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("sent", [b"", b"GET /heal", HEAD])
def test_a_head_that_does_not_come_to_its_end_is_a_408(
    connection: socket.socket, sent: bytes
) -> None:
    connection.sendall(sent)
    assert answer(connection).startswith(b"HTTP/1.1 408 ")


def test_a_second_request_has_its_own_time_and_size(connection: socket.socket) -> None:
    for _ in range(3):
        connection.sendall(HEAD + b"X-Padding: " + b"x" * 3000 + b"\r\n\r\n")
        found = b""
        while not found.endswith(b"}"):
            found += connection.recv(65536)
        assert found.startswith(b"HTTP/1.1 200 ")
        time.sleep(0.7)
    connection.sendall(HEAD)
    assert answer(connection).startswith(b"HTTP/1.1 408 ")


def test_a_body_that_does_not_come_to_its_end_is_a_408(connection: socket.socket) -> None:
    connection.sendall(b"POST /recommend HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
    assert answer(connection).startswith(b"HTTP/1.1 408 ")


def test_what_is_not_http_is_a_400(connection: socket.socket) -> None:
    connection.sendall(b"\x16\x03\x01\x02\x00 hello\r\n\r\n")
    assert answer(connection).startswith(b"HTTP/1.1 400 ")


def test_too_many_connections_are_refused_and_those_that_are_open_go_on(service: Service) -> None:
    service.client.get("/health/live")
    with ExitStack() as stack:
        others = [stack.enter_context(connected(service)) for _ in range(30)]
        refused = sum(answer(one).startswith(b"HTTP/1.1 503 ") for one in others[-11:])
        assert refused == 11
        assert service.client.get("/health/live").status_code == 200
    deadline = time.monotonic() + 10
    while True:  # they are gone before long
        with connected(service) as one:
            one.sendall(HEAD + b"Connection: close\r\n\r\n")
            if answer(one).startswith(b"HTTP/1.1 200 "):
                break
        assert time.monotonic() < deadline


def test_https_with_a_certificate(serve: Serve, tmp_path: Path) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    subprocess.run([*made, *names, *files], check=True, capture_output=True)
    service = serve(LLMEMB_TLS_CERT=str(certificate), LLMEMB_TLS_KEY=str(key))
    url = str(service.client.base_url)
    assert url.startswith("https://")
    trusting = ssl.create_default_context(cafile=str(certificate))
    with httpx.Client(verify=trusting) as client:
        assert client.get(f"{url}/health/live").status_code == 200
