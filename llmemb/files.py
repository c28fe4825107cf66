"""Files written aside and renamed into place, so that a reader sees the old state or the new, whole."""

import glob
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PARTIAL, OLD = ".partial", ".old"


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def json_bytes(value: Any) -> bytes:
    """Return the one JSON spelling that this project writes: sorted keys, two spaces, UTF-8."""
    return (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def sweep_leftovers(target: Path) -> None:
    """Remove what processes killed while replacing ``target`` left beside it.

    Only for one who knows that nobody else is replacing it now.
    """
    for suffix in (PARTIAL, OLD):
        for leftover in target.parent.glob(f".{glob.escape(target.name)}.*{suffix}"):
            shutil.rmtree(leftover, ignore_errors=True)


@contextmanager
def replacing_directory(target: Path) -> Iterator[Path]:
    """Yield an empty folder beside ``target`` that takes its place when the block ends without error.

    On an error (a full disk, say) the new folder is removed and the old one stays as it was.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=PARTIAL, dir=target.parent))
    try:
        yield aside
        for path in [*aside.rglob("*"), aside]:
            # Some libraries write for the owner alone; the service may run as another user.
            path.chmod(0o755 if path.is_dir() else 0o644)
            _sync(path)
        old = aside.with_suffix(OLD)
        if target.exists():
            target.rename(old)
        try:
            aside.rename(target)
        except OSError:
            if old.exists():
                old.rename(target)
            raise
        _sync(target.parent)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


@contextmanager
def replacing_file(target: Path) -> Iterator[Path]:
    """Yield a path beside ``target`` that takes its place when the block ends without error."""
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        yield aside
        _sync(aside)
        aside.replace(target)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
