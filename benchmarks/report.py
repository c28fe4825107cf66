"""The one form that every benchmark's JSON has: what ran, where, what came out, and what was promised."""

import datetime
import os
import platform
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from llmemb.files import json_bytes, replacing_file

RESULTS = Path(__file__).parent / "results"
LIBRARIES = {
    "faiss-cpu",
    "fastapi",
    "peft",
    "ray",
    "redis",
    "sentence-transformers",
    "torch",
    "transformers",
}


def must_show(line: str, value: float | str | bool, target: str, holds: bool) -> dict[str, Any]:
    """Return one promise with the measured value; ``holds`` is computed by the caller from it."""
    return {"line": line, "value": value, "target": target, "holds": holds}


def write_report(
    name: str,
    what: str,
    runs: int,
    promises: list[dict[str, Any]],
    *,
    folder: Path = RESULTS,
    **figures: Any,
) -> Path:
    """Write ``<folder>/<name>.json`` and return its path."""
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parent,
    )
    report = {
        "what": what,
        "command": " ".join(["python", *map(_portable, sys.argv)]),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": commit.stdout.strip(),
        "machine": machine(),
        "versions": {
            "python": platform.python_version(),
            **{d.name: d.version for d in distributions() if d.name in LIBRARIES},
        },
        "runs": runs,
        **figures,
        "must_show": promises,
    }
    path = folder / f"{name}.json"
    with replacing_file(path) as aside:
        aside.write_bytes(json_bytes(report))
    return path


def _portable(argument: str) -> str:
    """Return an argument, and of a path from the root its last part: the rest is this machine's."""
    return Path(argument).name if Path(argument).is_absolute() else argument


def machine() -> dict[str, Any]:
    """Return cores, CPU, GPU and memory."""
    import torch

    cpu = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cores": os.cpu_count(),
        "cpu": cpu,
        "gpu": gpu,
        "ram_gib": round(memory / 2**30),
        "bf16": torch.ops.mkldnn._is_mkldnn_bf16_supported(),
    }
