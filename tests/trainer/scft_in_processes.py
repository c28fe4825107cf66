"""SCFT of the tiny LLM in each way, by one process and by two; what ``test_processes.py`` compares."""

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llmemb.base_model import find_base_model
from llmemb.encoder import EncoderSettings, load_encoder
from llmemb.interactions import Sequences
from llmemb.prompt import PromptTemplate
from trainer import lora, processes, scft
from trainer.presets import ScftSettings
from trainer.steps import Step

TEMPLATE = PromptTemplate(domain="film", fields=("title", "year", "genres"))
GENRES = ["drama", "action", "Comedy", "alpha", "beta"]
FILMS: list[dict[str, Any]] = [
    # Two of a title and year: views of one may say what views of the other do.
    {"title": f"Story {i // 2}", "year": 1990 + i // 2, "genres": [GENRES[i % 5], GENRES[i % 3]]}
    for i in range(24)
]
SEQUENCES = Sequences(np.arange(24, dtype=np.int32), np.array([0, 2, 20, 24]))
SETTINGS = ScftSettings(epochs=2, batch_size=8, learning_rate=5e-3, checkpoint_steps=2)
WAYS: dict[str, dict[str, Any]] = {
    "infonce": {},
    "soft": {"loss": "soft", "temperature": 3.0},
    "catalogue": {"loss": "catalogue", "cooccurrence": 1.0, "accumulation": 2},
}
PLACED: dict[str, dict[str, Any]] = {
    "infonce": {"shard": True, "gradient_cache": 3},
    "soft": {"gradient_cache": 2},
    "catalogue": {},
}
DROPOUT = {"lora_dropout": 0.3}
DIES = 5  # of 6 steps; the last checkpoint before is of the fourth
LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


class KilledError(Exception):
    """Stands for a process that is gone."""


def fine_tune(
    folder: Path, base: Path, *, dies: int = -1, killed: int = -1, **changes: Any
) -> Path:
    """Run SCFT in float32; return the encoder's folder.

    Args:
        folder: of the run.
        base: the LLM's folder.
        dies: the step that it comes to.
        killed: the rank that is killed then, in place of an error in all.
        changes: of the settings.
    """

    def report(step: Step) -> None:
        if step.step != dies:
            return
        if killed < 0:
            raise KilledError
        if processes.rank() == killed:
            os.kill(os.getpid(), signal.SIGKILL)

    folder.mkdir(exist_ok=True, parents=True)
    with pytest.MonkeyPatch.context() as patch, suppress(KilledError):
        for module in (lora, scft):
            patch.setattr(module, "training_dtype", lambda _: torch.float32)
        scft.train_scft(
            FILMS,
            TEMPLATE,
            find_base_model(str(base)),
            EncoderSettings(),
            SETTINGS.model_copy(update=changes),
            seed=0,
            folder=folder,
            sequences=SEQUENCES,
            untuned=np.random.default_rng(0).normal(size=(len(FILMS), 32)),
            report=report,
        )
    return folder / "encoder"


def losses(run: Path) -> list[float]:
    """Return the loss of each step."""
    lines = (run / "losses.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def vectors(run: Path, base: Path) -> np.ndarray:
    """Return the films' vectors, of length 1."""
    encoder = load_encoder(run / "encoder", find_base_model(str(base)), EncoderSettings())
    found = encoder.encode([TEMPLATE.render(film) for film in FILMS]).astype(np.float64)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def launch(folder: Path) -> None:
    """Let two processes do :func:`main`, at the end of which one is killed."""
    done = subprocess.run([*LAUNCH, __file__, str(folder)], capture_output=True, text=True)
    assert "SIGKILL" in done.stderr, done.stderr


def main(folder: Path) -> None:
    """Fine-tune in every way, and go on with what one process began; at last one of two is killed."""
    processes.start()
    base = folder / "llm"
    for way, changes in WAYS.items():
        fine_tune(folder / "two" / way, base, **changes)
        fine_tune(folder / "placed" / way, base, **changes, **PLACED[way])
    fine_tune(folder / "begun by one", base)
    fine_tune(folder / "dropout", base, **DROPOUT)
    fine_tune(folder / "dropout again", base, dies=DIES, **DROPOUT)
    fine_tune(folder / "dropout again", base, **DROPOUT)
    fine_tune(folder / "begun by two", base, dies=DIES, killed=1)


if __name__ == "__main__":
    torch.use_deterministic_algorithms(True, warn_only=True)
    main(Path(sys.argv[1]))
