"""Stages of a training run: each result is kept under a hash of its inputs and never made twice."""

import fcntl
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import llmemb
from llmemb.errors import LLMEmbError
from llmemb.files import json_bytes, replacing_file
from trainer import processes

INPUTS, DONE = "inputs.json", "done"


def working_folder(out: Path) -> Path:
    """Return where the stages of a run that writes the bundle ``out`` are kept: ``<out>.work``."""
    return out.with_name(f"{out.name}.work")


def run_stage(
    work: Path, name: str, inputs: dict[str, Any], produce: Callable[[Path], None]
) -> tuple[Path, str]:
    """Run a stage, resume it, or find it done; where several processes train, each calls this.

    Args:
        work: the run's working folder.
        name: the stage; its folder is called ``<name>-<key>``.
        inputs: everything that decides the result: settings, and the keys of earlier stages.
        produce: writes the result into the folder it is given, which may hold what an interrupted
            run with the same inputs left there; all ranks produce, the first writes.

    Returns:
        The stage's folder, and its key (a hash of the inputs) for the inputs of later stages.
    """
    content = _content(inputs)
    key = stage_key(inputs)
    folder = work / f"{name}-{key[:16]}"
    if not processes.agreed((folder / DONE).exists()):
        if processes.first():
            folder.mkdir(exist_ok=True)
            with replacing_file(folder / INPUTS) as aside:
                aside.write_bytes(content)
        processes.wait()
        produce(folder)
        processes.wait()
        if processes.first():
            (folder / DONE).touch()
    return folder, key


def stage_key(inputs: dict[str, Any]) -> str:
    """Return the hash of a stage's inputs, which this version's code makes its result from."""
    return hashlib.sha256(_content(inputs)).hexdigest()


def _content(inputs: dict[str, Any]) -> bytes:
    return json_bytes({"version": llmemb.__version__, "inputs": inputs})


@contextmanager
def only_run(work: Path) -> Iterator[None]:
    """Hold the working folder's lock, which the system drops with the process however it ends.

    Of several processes that train together, the first holds it for all.

    Raises:
        LLMEmbError: another run holds it.
    """
    work.mkdir(parents=True, exist_ok=True)
    with (work / "lock").open("w") as file:
        try:
            if processes.first():
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LLMEmbError(
                f"another run is writing to {work}; wait for it, or give another --out"
            ) from None
        processes.wait()
        yield
