"""What one optimiser step of SCFT reports; apart from ``trainer.scft``, whose imports take seconds."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

LOSSES = "losses.jsonl"


@dataclass(frozen=True)
class Step:
    """One optimiser step."""

    step: int
    steps: int
    loss: float
    items_per_second: float


def read_losses(folder: Path, points: int = 500) -> list[dict[str, float]]:
    """Return ``step`` and ``loss`` over a fine-tuning that is done; empty where nothing was tuned.

    Args:
        folder: of the stage.
        points: at most so many, each the mean of as many steps, named by its last.
    """
    file = folder / LOSSES
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    steps = [json.loads(line) for line in lines]
    size = math.ceil(len(steps) / points)
    parts = (steps[start : start + size] for start in range(0, len(steps), size or 1))
    return [
        {"step": part[-1]["step"], "loss": fmean(step["loss"] for step in part)} for part in parts
    ]
