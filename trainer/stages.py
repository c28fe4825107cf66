"""Stages of a training run: each writes its result once, and is run again only if its inputs change."""

import fcntl
import hashlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import llmemb
from llmemb.errors import LLMEmbError
from llmemb.files import json_bytes, replacing_file

INPUTS, DONE = "inputs.json", "done"


def run_stage(
    work: Path, name: str, inputs: dict[str, Any], produce: Callable[[Path], None]
) -> tuple[Path, str]:
    """Run a stage, resume it, or find it done.

    Args:
        work: the run's working folder.
        name: the stage, also its folder's name.
        inputs: everything that decides the result: settings, and the keys of earlier stages.
        produce: writes the result into the folder it is given, which may hold what an interrupted
            run with the same inputs left there.

    Returns:
        The stage's folder, and its key (a hash of the inputs) for the inputs of later stages.
    """
    content = json_bytes({"version": llmemb.__version__, "inputs": inputs})
    key = hashlib.sha256(content).hexdigest()
    folder = work / name
    if not (folder / INPUTS).is_file() or (folder / INPUTS).read_bytes() != content:
        # First what says that something is there: a kill inside rmtree must not leave that alone.
        (folder / DONE).unlink(missing_ok=True)
        (folder / INPUTS).unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        with replacing_file(folder / INPUTS) as aside:
            aside.write_bytes(content)
    if not (folder / DONE).exists():
        produce(folder)
        (folder / DONE).touch()
    return folder, key


@contextmanager
def only_run(work: Path) -> Iterator[None]:
    """Hold the working folder's lock, which the system drops with the process however it ends.

    Raises:
        LLMEmbError: another run holds it.
    """
    work.mkdir(parents=True, exist_ok=True)
    with (work / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LLMEmbError(
                f"another training run is writing to {work}; wait for it, or give another --out"
            ) from None
        yield
