"""Our side of the peer: hands RecTools the same split and settings, ranks with the vectors it returns."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llmemb.interactions import LeaveOneOut
from trainer.evaluate import Scorer
from trainer.presets import Preset

SCRIPT = Path(__file__).with_name("rectools_sasrec.py")
# Its scores take 300 MB a batch: memory that glibc would take from the system and give back each time,
# which makes it half as slow again.
ALLOCATION = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**34)}
LOSSES = {"bce": "BCE", "gbce": "gBCE", "sampled": "sampled_softmax", "softmax": "softmax"}


def rectools_scorer(
    python: Path, split: LeaveOneOut, preset: Preset, folder: Path
) -> tuple[Scorer, list[dict[str, Any]]]:
    """Train RecTools' SASRec with the preset's ID-only settings; return its scorer and its epochs.

    Args:
        python: the interpreter of the environment that RecTools lives in.
        split: what to train, validate and test on.
        preset: ``srs`` and ``collaborative`` give width, depth, length, dropout, loss and batch.
        folder: for what the two sides exchange.
    """
    fit = preset.collaborative
    settings = {
        "seed": preset.seed,
        **preset.srs.model_dump(include={"blocks", "heads", "width", "dropout", "max_length"}),
        **fit.model_dump(include={"learning_rate", "batch_size", "epochs", "patience"}),
        "loss": LOSSES[fit.loss],
        "negatives": 1 if fit.loss in ("bce", "softmax") else fit.negatives,
    }
    arrays: dict[str, Any] = {
        "n_items": split.n_items,
        "train_items": split.train.items,
        "train_offsets": split.train.offsets,
        "validation_targets": split.targets("validation"),
    }
    for part in ("validation", "test"):
        histories = split.histories(part)
        arrays[f"{part}_items"] = np.concatenate(histories)
        arrays[f"{part}_offsets"] = np.append(0, np.cumsum([len(h) for h in histories]))
    np.savez(folder / "input.npz", **arrays)
    (folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    subprocess.run([python, SCRIPT, folder], check=True, env=os.environ | ALLOCATION)
    lines = (folder / "epochs.jsonl").read_text(encoding="utf-8").splitlines()
    output = np.load(folder / "output.npz")
    users, items = torch.from_numpy(output["users"]), torch.from_numpy(output["items"])
    unknown = torch.from_numpy(~output["known"])
    rows = {history.tobytes(): row for row, history in enumerate(split.histories("test"))}

    def scores(histories: list[NDArray[np.int32]]) -> Tensor:
        chosen = users[[rows[history.tobytes()] for history in histories]]
        return (chosen @ items.T).masked_fill(unknown, -torch.inf)

    return scores, [json.loads(line) for line in lines]
