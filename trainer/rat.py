"""RAT: adapter and backbone trained together, held near the collaborative SRS by an alignment loss.

The collaborative SRS, the same backbone over plain ID embeddings, is trained here first: it is the
teacher of the alignment and the baseline that a bundle is compared with.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llmemb.adapter import Adapter, AdapterSettings
from llmemb.device import best_device
from llmemb.interactions import LeaveOneOut
from llmemb.srs import build_backbone
from trainer.contrast import contrastive_loss
from trainer.fit import Epoch, Recommender, fit
from trainer.item_tables import AdaptedTable, IdTable
from trainer.presets import Preset, RatSettings

ALIGNED_ITEMS = 1024  # distinct items of a batch that the alignment loss looks at


def collaborative_model(preset: Preset, n_items: int) -> Recommender[IdTable]:
    """Return an untrained ID-only SRS."""
    torch.manual_seed(preset.seed)
    return Recommender(IdTable.random(n_items, preset.srs.width), build_backbone(preset.srs))


def adapted_model(
    preset: Preset, projected: NDArray[np.float32], seen: NDArray[np.bool_]
) -> Recommender[AdaptedTable]:
    """Return an untrained SRS over adapted LLM vectors.

    Args:
        preset: its ``srs`` and ``rat`` settings decide the shapes.
        projected: float32 ``[items, projected]``.
        seen: bool ``[items]``, items with training interactions.
    """
    torch.manual_seed(preset.seed)
    shape = AdapterSettings(
        inputs=projected.shape[1],
        hidden=preset.rat.adapter_hidden,
        experts=preset.rat.experts,
        outputs=preset.srs.width,
    )
    id_dropout = preset.rat.id_dropout if preset.rat.id_residual else None
    table = AdaptedTable(projected, Adapter(shape), seen, id_dropout)
    return Recommender(table, build_backbone(preset.srs))


def train_collaborative(
    model: Recommender[IdTable],
    split: LeaveOneOut,
    preset: Preset,
    folder: Path,
    report: Callable[[Epoch], None],
) -> None:
    """Train the ID-only SRS in place; resumes from ``folder``."""
    fit(model, split, preset.collaborative, seed=preset.seed, folder=folder, report=report)


def train_rat(
    model: Recommender[AdaptedTable],
    teacher: Tensor | None,
    split: LeaveOneOut,
    preset: Preset,
    folder: Path,
    report: Callable[[Epoch], None],
) -> None:
    """Train adapter and backbone in place; resumes from ``folder``.

    Args:
        model: see :func:`adapted_model`.
        teacher: float ``[items, width]``, the collaborative SRS's item embeddings, frozen; ``None``:
            no alignment.
        split: training sequences and validation targets.
        preset: all settings.
        folder: for the checkpoint and the history.
        report: told of each finished epoch.
    """
    settings = preset.rat
    extra_loss = None if teacher is None else alignment_loss(model.table, teacher, settings)
    fit(
        model,
        split,
        settings,
        seed=preset.seed,
        folder=folder,
        extra_loss=extra_loss,
        report=report,
    )


def alignment_loss(
    table: AdaptedTable, teacher: Tensor, settings: RatSettings
) -> Callable[[Tensor], Tensor]:
    """Return the loss that pulls adapted vectors to the teacher's (paper, equation 9).

    It is called with a batch's distinct items, int64 ``[items]``.
    """
    teacher = teacher.to(best_device())
    contrast = contrastive_loss(settings.alignment, settings.alignment_temperature, learnable=False)

    def alignment(items: Tensor) -> Tensor:
        chosen = items[torch.randperm(len(items))[:ALIGNED_ITEMS]]
        adapted = table.adapter(table.projected[chosen])
        same = torch.eye(len(chosen), dtype=torch.bool, device=chosen.device)
        loss: Tensor = contrast(adapted, teacher[chosen], same)
        return settings.alignment_weight * loss

    return alignment
