"""The embedded Valkey: private, durable, one a state directory, and there again after it died."""

import contextlib
import os
import signal
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import RedisError

from llmemb.errors import SettingsError
from service.valkey import EmbeddedValkey


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def embedded(state_dir: Path) -> Iterator[EmbeddedValkey]:
    valkey = EmbeddedValkey(state_dir, maxmemory="64mb")
    valkey.start()
    yield valkey
    valkey.stop()


def connect(valkey: EmbeddedValkey) -> Redis:
    return Redis.from_url(valkey.url)


def test_it_is_private_bounded_and_durable(embedded: EmbeddedValkey, state_dir: Path) -> None:
    with connect(embedded) as client:
        settings = client.config_get("port", "maxmemory", "maxmemory-policy", "appendonly")
        client.set("kept", "yes")
    assert settings == {
        "port": "0",
        "maxmemory": str(64 * 1024 * 1024),
        "maxmemory-policy": "volatile-lru",
        "appendonly": "yes",
    }
    assert stat.S_IMODE(state_dir.stat().st_mode) == 0o700
    embedded.stop()
    embedded.start()
    with connect(embedded) as client:
        assert client.get("kept") == b"yes"


def test_a_dead_server_is_started_again_with_its_data(embedded: EmbeddedValkey) -> None:
    with connect(embedded) as client:
        client.set("kept", "yes")
        client.execute_command("WAITAOF", 1, 0, 1000)
        pid = client.info("server")["process_id"]
        embedded.revive()
        assert client.info("server")["process_id"] == pid  # it lives: nothing to do
        os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            embedded.revive()  # again and again, as the probe does: its end takes the system a moment
            with contextlib.suppress(RedisError):
                if client.info("server")["process_id"] != pid:
                    break
        assert client.info("server")["process_id"] != pid
        assert client.get("kept") == b"yes"


def test_a_hanging_server_is_not_killed(embedded: EmbeddedValkey) -> None:
    with connect(embedded) as client:
        pid = client.info("server")["process_id"]
        os.kill(pid, signal.SIGSTOP)
        embedded.revive()
        os.kill(pid, signal.SIGCONT)
        assert client.info("server")["process_id"] == pid


def test_a_state_directory_serves_one_service(embedded: EmbeddedValkey, state_dir: Path) -> None:
    second = EmbeddedValkey(state_dir, maxmemory="64mb")
    with pytest.raises(SettingsError, match="another service uses the state directory") as refused:
        second.start()
    assert "\n" not in str(refused.value)
    embedded.stop()
    second.start()
    second.stop()


def test_a_server_left_by_a_killed_service_is_replaced(state_dir: Path) -> None:
    killed = EmbeddedValkey(state_dir, maxmemory="64mb")
    killed.start()
    with connect(killed) as client:
        client.set("kept", "yes")
    killed._release()  # as the system does when a process dies
    successor = EmbeddedValkey(state_dir, maxmemory="32mb")
    successor.start()
    with connect(successor) as client:
        assert client.get("kept") == b"yes"
        assert client.config_get("maxmemory") == {"maxmemory": str(32 * 1024 * 1024)}
    successor.stop()
    killed.stop()


def test_a_long_path_gets_a_short_private_socket(tmp_path: Path) -> None:
    valkey = EmbeddedValkey(tmp_path / ("long" * 30), maxmemory="64mb")
    valkey.start()
    try:
        with connect(valkey) as client:
            assert client.ping()
        assert stat.S_IMODE(valkey._socket.parent.stat().st_mode) == 0o700
        valkey._socket.parent.chmod(0o755)
        other = EmbeddedValkey(tmp_path / ("long" * 30), maxmemory="64mb")
        with pytest.raises(SettingsError, match="not a private directory"):
            other.start()
    finally:
        valkey.stop()
        valkey._socket.parent.rmdir()


@pytest.mark.parametrize("name", ["with blank", 'quo"te', "a\nline"])
def test_a_path_that_valkey_cannot_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(SettingsError, match="LLMEMB_STATE_DIR"):
        EmbeddedValkey(tmp_path / name, maxmemory="64mb").start()


def test_a_state_directory_that_is_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match=r"cannot be used: .*LLMEMB_STATE_DIR"):
        EmbeddedValkey(tmp_path / "file", maxmemory="64mb").start()


def test_a_server_that_does_not_start_is_one_line_and_frees_the_directory(state_dir: Path) -> None:
    broken = EmbeddedValkey(state_dir, maxmemory="nonsense")
    with pytest.raises(SettingsError, match="does not start") as refused:
        broken.start()
    assert "\n" not in str(refused.value)
    valkey = EmbeddedValkey(state_dir, maxmemory="64mb")
    valkey.start()
    valkey.stop()
