"""API keys: a file of their names, scopes and hashes, which may change while the service runs."""

import datetime
import fcntl
import hashlib
import hmac
import logging
import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from llmemb.errors import SettingsError
from llmemb.files import json_bytes, replacing_file

Scope = Literal["read", "write", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)  # each may do what those before it may

PREFIX, RANDOM_BYTES = "llmemb_", 32  # so much chance needs no slow hash
MAX_FILE_BYTES = 4 * 1024 * 1024
LOOK_SECONDS = 1.0

log = logging.getLogger(__name__)


class Key(BaseModel):
    """An API key, but for the key itself.

    Attributes:
        name: whose it is.
        scope: what it may do: read, change the catalogue too, or everything.
        sha256: of the key, in hexadecimal.
        per_minute: requests that it may make; None: any number.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    scope: Scope
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    per_minute: int | None = Field(default=None, ge=1, le=1_000_000)
    created: datetime.date

    def may(self, scope: Scope) -> bool:
        """Return whether the key's scope includes another."""
        return SCOPES.index(self.scope) >= SCOPES.index(scope)


class KeyFile(BaseModel):
    """What the file holds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    keys: list[Key] = Field(default=[], max_length=10_000)

    @field_validator("keys")
    @classmethod
    def _names_are_unique(cls, keys: list[Key]) -> list[Key]:
        if len({key.name for key in keys}) < len(keys):
            raise ValueError("a name is there twice")
        return keys


def read_keys(path: Path) -> list[Key]:
    """Return the keys of a file.

    Raises:
        SettingsError: it is missing or not such a file; what it holds is not repeated.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}; `llmemb keys add` makes one") from error
    if len(content) > MAX_FILE_BYTES:
        raise SettingsError(f"{path} is larger than {MAX_FILE_BYTES:,} bytes")
    try:
        return KeyFile.model_validate_json(content).keys
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise SettingsError(f"{path} is not a file of keys: {where}: {first['msg']}") from None


def add_key(path: Path, name: str, scope: str, per_minute: int | None) -> str:
    """Add a key to a file, which is made if it is not there; return the key, which is kept nowhere.

    Raises:
        SettingsError: the name is taken or not one, or the file cannot be used.
    """
    token = PREFIX + secrets.token_urlsafe(RANDOM_BYTES)
    try:
        new = Key(
            name=name,
            scope=scope,  # checked there
            sha256=_hash(token.encode()),
            per_minute=per_minute,
            created=datetime.datetime.now(datetime.UTC).date(),
        )
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        raise SettingsError(f"{first['loc'][0]}: {first['msg']}") from None
    with _locked(path):
        keys = read_keys(path) if path.exists() else []
        if any(key.name == name for key in keys):
            raise SettingsError(
                f"{path} has a key {name!r} already; remove it, or take another name"
            )
        _write(path, [*keys, new])
    return token


def remove_key(path: Path, name: str) -> None:
    """Remove a key from a file.

    Raises:
        SettingsError: there is none of that name, or the file cannot be used.
    """
    with _locked(path):
        keys = read_keys(path)
        left = [key for key in keys if key.name != name]
        if len(left) == len(keys):
            raise SettingsError(f"{path} has no key {name!r}")
        _write(path, left)


class Keys:
    """The keys that are good now: those of the file, which is looked at once a second."""

    def __init__(self, path: Path) -> None:
        """Read the file.

        Raises:
            SettingsError: see :func:`read_keys`.
        """
        self._path = path
        self._keys = read_keys(path)
        self._seen = self._state()
        self._looked = time.monotonic()

    def find(self, token: bytes) -> Key | None:
        """Return the key; it takes the same time whichever it is, and whether or not there is one."""
        self._look()
        asked = _hash(token)
        found = None
        for key in self._keys:
            if hmac.compare_digest(asked, key.sha256):
                found = key
        return found

    def _look(self) -> None:
        now = time.monotonic()
        if now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        state = self._state()
        if state == self._seen:
            return
        self._seen = state
        try:
            self._keys = read_keys(self._path)
        except SettingsError as error:
            log.error("%s; the keys that were good before still are", error)
        else:
            log.warning("%s was read again: %d keys", self._path, len(self._keys))

    def _state(self) -> tuple[int, int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size


def token_of(headers: list[tuple[bytes, bytes]]) -> bytes | None:
    """Return the key that a request brings, in ``Authorization: Bearer`` or ``X-API-Key``."""
    found = dict(headers)
    bearer = re.fullmatch(rb"(?i:bearer) +(\S+) *", found.get(b"authorization", b""))
    return bearer[1] if bearer else found.get(b"x-api-key")


def _hash(token: bytes) -> str:
    return hashlib.sha256(token).hexdigest()


def _write(path: Path, keys: list[Key]) -> None:
    content = KeyFile(keys=keys).model_dump(mode="json", exclude_none=True)
    with replacing_file(path) as aside:
        aside.write_bytes(json_bytes(content))
        aside.chmod(0o600)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Let one process at a time change the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path.with_name(f".{path.name}.lock"), os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
