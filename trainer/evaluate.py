"""Leave-one-out evaluation: full ranking first, the paper's 1+100 protocol with fixed negatives beside it.

``full`` ranks every item; ``unseen`` leaves the user's history out of the ranking and targets that
never occur in training out of the average; ``sampled100`` ranks the target among 100 negatives.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llmemb.bundle import Bundle
from llmemb.errors import DataError
from llmemb.interactions import LeaveOneOut
from llmemb.metrics import ranking_metrics, target_ranks
from llmemb.srs import Backbone
from trainer.batches import pad_sequences
from trainer.dataset import Dataset

NEGATIVES = 100
NEGATIVES_SEED = 2024  # the same negatives for every model, run and machine
POPULARITY_BUCKETS = (0, 1, 3, 6, 11, 21, 51)  # training interactions of the target, lower bounds
SCORE_BATCH_BYTES = 8 * 1024 * 1024  # of scores held at a time: what a cache holds is ranked faster


@dataclass(frozen=True)
class Ranks:
    """0-based rank of each evaluated user's target, int64 ``[users]``, by protocol.

    Attributes:
        full: among all items.
        unseen: among the items that the user has no history with.
        sampled: among the target and 100 fixed negatives.
        recommended: bool ``[items]``, whether an item is in anyone's unseen top 10.
    """

    full: NDArray[np.int64]
    unseen: NDArray[np.int64]
    sampled: NDArray[np.int64]
    recommended: NDArray[np.bool_]


Scorer = Callable[[list[NDArray[np.int32]]], Tensor]
"""Histories, oldest first, to the scores of every item: float ``[users, items]``."""


def backbone_scorer(backbone: Backbone, table: Tensor) -> Scorer:
    """Return the scorer of a backbone over item vectors, float ``[items, width]``."""

    def scores(histories: list[NDArray[np.int32]]) -> Tensor:
        items, lengths = pad_sequences(histories, backbone.settings.max_length)
        users = backbone.user_vectors(table[items.to(table.device)], lengths.to(table.device))
        scores = (users @ table.T).cpu()
        if backbone.settings.repeat_bias:
            users_of = np.repeat(np.arange(len(histories)), [len(history) for history in histories])
            own = torch.from_numpy(users_of), torch.from_numpy(np.concatenate(histories)).long()
            scores[own] += backbone.repeat_bias.item()  # once, even where an item is there twice
        return scores

    return scores


def popularity_scorer(split: LeaveOneOut) -> Scorer:
    """Return the scorer that knows nothing but training popularity: the baseline without a model."""
    popularity = torch.from_numpy(split.popularity).float()
    return lambda histories: popularity.repeat(len(histories), 1)


@torch.inference_mode()
def full_ranks(scorer: Scorer, split: LeaveOneOut, part: str) -> NDArray[np.int64]:
    """Rank the targets of ``part`` (``validation`` or ``test``) among all items; int64 ``[users]``."""
    full = torch.empty(len(split.evaluated), dtype=torch.int64)
    for rows, target, scores in _scored(scorer, split, part):
        full[rows] = target_ranks(scores, target)
    return full.numpy()


@torch.inference_mode()
def ranks(scorer: Scorer, split: LeaveOneOut, part: str) -> Ranks:
    """Rank the targets of ``part`` (``validation`` or ``test``) by every protocol."""
    negatives = torch.from_numpy(fixed_negatives(split))
    seen = split.histories(part)
    recommended = torch.zeros(split.n_items, dtype=torch.bool)
    full, unseen, sampled = torch.empty(3, len(split.evaluated), dtype=torch.int64)
    for rows, target, scores in _scored(scorer, split, part):
        full[rows] = target_ranks(scores, target)
        candidates = torch.cat([target[:, None], negatives[rows]], dim=1)
        sampled[rows] = target_ranks(scores.gather(1, candidates), torch.zeros_like(target))
        own = scores.gather(1, target[:, None])
        for row, user in enumerate(rows.tolist()):
            scores[row, torch.from_numpy(seen[user].astype(np.int64))] = -torch.inf
        best = scores.topk(min(10, split.n_items))
        recommended[best.indices[best.values > -torch.inf]] = True
        scores.scatter_(1, target[:, None], own)  # a repeated target stays in the ranking
        unseen[rows] = target_ranks(scores, target)
    return Ranks(full.numpy(), unseen.numpy(), sampled.numpy(), recommended.numpy())


def _scored(
    scorer: Scorer, split: LeaveOneOut, part: str
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield users in batches of like history: which they are, their targets, scores of all items."""
    targets = torch.from_numpy(split.targets(part).astype(np.int64))
    histories = split.histories(part)
    by_length = np.argsort([len(history) for history in histories], kind="stable")
    size = max(1, SCORE_BATCH_BYTES // (4 * split.n_items))
    for start in range(0, len(targets), size):
        rows = by_length[start : start + size]
        scores = scorer([histories[row] for row in rows])
        yield torch.from_numpy(rows), targets[rows], scores


def fixed_negatives(split: LeaveOneOut) -> NDArray[np.int64]:
    """Return 100 items for each evaluated user, int64 ``[users, 100]``, seeded, none of them the user's.

    A user who has interacted with nearly all of a small catalogue gets negatives again and again.
    """
    rng = np.random.default_rng(NEGATIVES_SEED)
    negatives = np.empty((len(split.evaluated), NEGATIVES), dtype=np.int64)
    for row, u in enumerate(split.evaluated):
        own = np.unique(split.full[u])
        if split.n_items - len(own) < NEGATIVES:
            pool = np.setdiff1d(np.arange(split.n_items), own)
            negatives[row] = rng.choice(pool if len(pool) else own, NEGATIVES)
        else:
            drawn = rng.choice(split.n_items, NEGATIVES + len(own), replace=False)
            negatives[row] = drawn[~np.isin(drawn, own)][:NEGATIVES]
    return negatives


PROTOCOLS = ("full", "unseen", "sampled100")


def evaluation_report(found: Ranks, split: LeaveOneOut, part: str) -> dict[str, Any]:
    """Return the metrics of ``llmemb evaluate``: by protocol, then by kind of target, then by metric.

    ``by_popularity`` is of full ranking, by training interactions of the target.
    """
    targets = split.targets(part)
    cold = split.popularity[targets] == 0
    histories = split.histories(part)
    repeat = np.array([t in h for t, h in zip(targets, histories, strict=True)], dtype=bool)
    groups = {
        "all": np.ones(len(targets), dtype=bool),
        "tail": ~split.head[targets],
        "warm_tail": ~split.head[targets] & ~cold,
        "head": split.head[targets],
        "cold": cold,
        "novel": ~repeat,
        "repeat": repeat,
    }

    def by_group(found_ranks: NDArray[np.int64], counted: NDArray[np.bool_]) -> dict[str, Any]:
        return {
            name: {"n": int((group & counted).sum())}
            | ranking_metrics(found_ranks[group & counted])
            for name, group in groups.items()
        }

    everyone = groups["all"]
    report = {
        "full": by_group(found.full, everyone),
        "unseen": by_group(found.unseen, ~cold),
        "sampled100": by_group(found.sampled, everyone),
    }
    bucket = np.searchsorted(POPULARITY_BUCKETS, split.popularity[targets], side="right") - 1
    groups = {label: bucket == i for i, label in enumerate(bucket_labels())}
    return {
        **report,
        "by_popularity": by_group(found.full, everyone),
        "coverage@10": float(found.recommended.mean()),
        "n_users": len(targets),
    }


def bucket_labels() -> list[str]:
    """Return the names of ``POPULARITY_BUCKETS``: ``0``, ``1-2`` and so on."""
    ends = [first - 1 for first in POPULARITY_BUCKETS[1:]]
    labels = [
        str(first) if first == last else f"{first}-{last}"
        for first, last in zip(POPULARITY_BUCKETS, ends, strict=False)
    ]
    return [*labels, f"{POPULARITY_BUCKETS[-1]}+"]


def evaluate_bundle(bundle: Bundle, data: Dataset) -> dict[str, Any]:
    """Return the test reports of the baselines and, last, of the bundle (``llmemb``).

    Popularity and the bundle are ranked here; the ID-only row is the one of the bundle's training.

    Raises:
        DataError: the data are not those that the bundle was trained on.
    """
    if data.facts.fingerprint != bundle.manifest.data.fingerprint:
        raise DataError(
            f"{bundle.path} was trained on other data ({bundle.manifest.data.name}); its test "
            "split means nothing there"
        )
    split = data.split
    scorers = {
        "popularity": popularity_scorer(split),
        "llmemb": backbone_scorer(bundle.backbone, torch.from_numpy(bundle.item_vectors)),
    }
    return bundle.manifest.metrics | {
        name: evaluation_report(ranks(scorer, split, "test"), split, "test")
        for name, scorer in scorers.items()
    }
