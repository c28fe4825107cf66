"""The training loop of a backbone with its item table: a plain loop over tensors in memory.

The collaborative SRS (IDs only) and RAT (adapted LLM vectors) both run through it.
"""

import copy
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from llmemb.device import best_device
from llmemb.errors import DataError, LLMEmbError
from llmemb.files import replacing_file
from llmemb.interactions import LeaveOneOut
from llmemb.metrics import ranking_metrics
from llmemb.srs import Backbone
from trainer.batches import training_batches, training_windows
from trainer.evaluate import Scorer, backbone_scorer, full_ranks
from trainer.item_tables import ItemTable
from trainer.next_item import Repeats, draw_negatives, next_item_loss, usual_score
from trainer.presets import FitSettings

CHECKPOINT, HISTORY = "checkpoint.safetensors", "history.jsonl"
CHECKPOINT_SECONDS = 20.0
GRADIENT_NORM = 1.0
REPEAT_BIAS_SPEED = 10  # times the learning rate: one number that may have far to go

Table = TypeVar("Table", bound=ItemTable)


class Recommender(nn.Module, Generic[Table]):
    """A backbone and the table that its item vectors come from."""

    table: Table
    backbone: Backbone

    def __init__(self, table: Table, backbone: Backbone) -> None:
        super().__init__()
        self.table = table
        self.backbone = backbone

    def item_vectors(self) -> Tensor:
        """Return all item vectors as they are used after training, float ``[items, width]``."""
        self.eval()
        with torch.inference_mode():
            return self.vectors()

    def vectors(self, items: Tensor | None = None) -> Tensor:
        """Return item vectors as the backbone reads them; arguments as the table's."""
        return self.backbone.item_space(self.table(items))

    def scorer(self) -> Scorer:
        """Return what ranks items for a history, for evaluation."""
        return backbone_scorer(self.backbone, self.item_vectors())


@dataclass(frozen=True)
class Epoch:
    """What one epoch did; shown as it happens and kept in ``history.jsonl``."""

    epoch: int
    loss: float
    ndcg: float  # NDCG@10 on validation, full ranking
    best: int  # the epoch with the highest of those so far
    seconds: float


def fit(
    model: Recommender[Table],
    split: LeaveOneOut,
    settings: FitSettings,
    *,
    seed: int,
    folder: Path,
    extra_loss: Callable[[Tensor], Tensor] | None = None,
    report: Callable[[Epoch], None] = lambda _: None,
) -> None:
    """Train until validation NDCG@10 stops rising; leave the model with its best averaged weights.

    What is validated and kept is a moving average of the weights: it ends higher than the weights
    themselves, and varies less from epoch to epoch.

    Runs on the GPU where there is one (not yet tried on one) and hands the model back on the CPU.

    Randomness is drawn anew from ``seed`` and the epoch's number, so that a run that was
    interrupted and resumed from ``folder`` ends with the very same weights.

    Args:
        model: changed in place.
        split: training sequences and validation targets.
        settings: loss, batch size, learning rate, patience.
        seed: of shuffling, dropout and negatives.
        folder: for the checkpoint, which the caller removes once it has the weights, and for
            ``history.jsonl``.
        extra_loss: added to the loss; called with the batch's distinct target items, int64 ``[n]``.
        report: told of each finished epoch.

    Raises:
        DataError: no user has two training items, so there is nothing to learn from.
        LLMEmbError: the loss is no longer a number.
    """
    items, lengths = training_windows(split.train, model.backbone.settings.max_length)
    if not len(items):
        raise DataError("no user has two training items: there is no next item to learn")
    device = best_device()
    model.to(device)
    items, lengths = items.to(device), lengths.to(device)
    bias = model.backbone.repeat_bias
    others = [parameter for parameter in model.parameters() if parameter is not bias]
    groups: list[dict[str, Any]] = [
        {"params": others},
        {"params": [bias], "lr": REPEAT_BIAS_SPEED * settings.learning_rate},
    ]
    optimizer = torch.optim.AdamW(
        groups,
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
        fused=True,
    )
    steps = math.ceil(len(items) / settings.batch_size)
    averaged = copy.deepcopy(model)
    offsets = settings.logit_adjustment * torch.from_numpy(split.popularity).clamp(min=1).log()
    offsets += usual_score(settings.loss, settings.negatives, len(model.table.candidates))
    offsets = offsets.to(device)
    checkpoint = folder / CHECKPOINT
    history, best_weights = _resume(checkpoint, model, averaged, optimizer)
    saved_at = time.monotonic()
    while not _finished(history, settings):
        started, number = time.monotonic(), len(history)
        torch.manual_seed(_epoch_seed(seed, number))
        rng = np.random.default_rng((seed, number))
        model.train()
        total, count = 0.0, 0
        for i, batch in enumerate(training_batches(items, lengths, settings.batch_size, rng)):
            loss, targets = _batch_loss(model, *batch, offsets, settings)
            if extra_loss is not None:
                loss = loss + extra_loss(torch.unique(targets))
            if not torch.isfinite(loss):
                raise LLMEmbError(
                    f"training diverged in epoch {number} (the loss is {loss.item()}); "
                    "lower the stage's learning_rate"
                )
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(model.parameters(), GRADIENT_NORM)
            optimizer.step()
            _average(averaged, model, number * steps + i, settings.averaged_epochs * steps)
            total += loss.item() * len(targets)
            count += len(targets)
        ndcg = validation_ndcg(averaged, split)
        if not history or ndcg > max(epoch.ndcg for epoch in history):
            weights = averaged.state_dict()
            best_weights = {name: value.clone() for name, value in weights.items()}
            best = number
        else:
            best = history[-1].best
        seconds = time.monotonic() - started
        history.append(Epoch(number, total / max(1, count), ndcg, best, seconds))
        report(history[-1])
        if time.monotonic() - saved_at > CHECKPOINT_SECONDS:
            _save(checkpoint, model, averaged, optimizer, best_weights, history)
            saved_at = time.monotonic()
    model.load_state_dict(best_weights)
    model.to("cpu").eval()
    lines = [json.dumps({**vars(epoch), "seconds": round(epoch.seconds, 3)}) for epoch in history]
    (folder / HISTORY).write_text("\n".join(lines) + "\n", encoding="utf-8")


def read_history(folder: Path) -> list[dict[str, Any]]:
    """Return what each epoch did, from the folder of a training that is done."""
    lines = (folder / HISTORY).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def _average(mean: nn.Module, model: nn.Module, made: int, steps: float) -> None:
    """Move ``mean`` towards a step's weights: a moving average of about ``steps``, of fewer at first."""
    weight = max(1 / (1 + steps), 9 / (10 + made)) if made else 1.0
    with torch.no_grad():
        torch._foreach_lerp_(list(mean.parameters()), list(model.parameters()), weight)


def _batch_loss(
    model: Recommender[Table],
    items: Tensor,
    lengths: Tensor,
    offsets: Tensor,
    settings: FitSettings,
) -> tuple[Tensor, Tensor]:
    """Return a batch's next-item loss and its targets, int64 ``[predicted]``.

    Only the items that the batch touches get their vectors computed. ``offsets``, float ``[items]``,
    are added to the items' scores: one more column of the item vectors, met by a 1 in the user's.
    """
    candidates = model.table.candidates
    negatives = draw_negatives(settings.loss, candidates, items.numel(), settings.negatives)
    touched, rows = torch.unique(torch.cat([items.flatten(), negatives]), return_inverse=True)
    vectors = model.vectors(touched)
    local = rows[: items.numel()].view_as(items)
    predicted, states = model.backbone.training_states(F.embedding(local, vectors), lengths)
    repeats = None
    if model.backbone.settings.repeat_bias:
        repeats = Repeats.find(
            model.backbone.repeat_bias,
            local[predicted.nonzero()[:, 0]],
            model.backbone.read_in_training(predicted, lengths),
            local[predicted],
            rows[items.numel() :],
            paired=settings.loss == "bce",
        )
    loss = next_item_loss(
        settings.loss,
        torch.cat([states, states.new_ones(len(states), 1)], dim=1),
        local[predicted],
        torch.cat([vectors, offsets[touched, None]], dim=1),
        rows[items.numel() :],
        len(candidates),
        repeats,
    )
    return loss, items[predicted]


def validation_ndcg(model: Recommender[Table], split: LeaveOneOut) -> float:
    """Return NDCG@10 on the validation targets, full ranking."""
    return ranking_metrics(full_ranks(model.scorer(), split, "validation"))["NDCG@10"]


def _finished(history: list[Epoch], settings: FitSettings) -> bool:
    if not history:
        return False
    stale = history[-1].epoch - history[-1].best
    return len(history) >= settings.epochs or stale >= settings.patience


def _epoch_seed(seed: int, epoch: int) -> int:
    return int(np.random.SeedSequence((seed, epoch)).generate_state(1)[0])


def _save(
    path: Path,
    model: Recommender[Table],
    averaged: Recommender[Table],
    optimizer: torch.optim.Optimizer,
    best_weights: dict[str, Tensor],
    history: list[Epoch],
) -> None:
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    tensors |= {f"averaged.{name}": value for name, value in averaged.state_dict().items()}
    tensors |= {f"best.{name}": value for name, value in best_weights.items()}
    for i, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{i}.{name}": value for name, value in state.items()}
    metadata = {"history": json.dumps([vars(epoch) for epoch in history])}
    with replacing_file(path) as aside:
        save_file({name: value.contiguous() for name, value in tensors.items()}, aside, metadata)


def _resume(
    path: Path,
    model: Recommender[Table],
    averaged: Recommender[Table],
    optimizer: torch.optim.Optimizer,
) -> tuple[list[Epoch], dict[str, Tensor]]:
    """Load a checkpoint, where there is one; return the epochs done and the best weights."""
    if not path.is_file():
        return [], {}
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        history = [Epoch(**epoch) for epoch in json.loads(file.metadata()["history"])]
    model.load_state_dict(_under("model.", tensors))
    averaged.load_state_dict(_under("averaged.", tensors))
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in _under("optimizer.", tensors).items():
        i, key = name.split(".")
        state.setdefault(int(i), {})[key] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    return history, _under("best.", tensors)


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }
