"""Ranking metrics over the rank of one target a user, vectorised; a tie counts against the model."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

CUTOFFS = (10, 20)


def target_ranks(scores: Tensor, targets: Tensor) -> Tensor:
    """Return the 0-based rank of each row's target.

    Args:
        scores: float ``[users, items]``; ``-inf`` takes an item out of the ranking.
        targets: int64 ``[users]``, an index into the row.

    Returns:
        int64 ``[users]``: how many other items score at least as high as the target.
    """
    of_target = scores.gather(1, targets[:, None])
    # Not ``>=``: where a score is NaN the item counts as above the target, never below.
    return scores.shape[1] - 1 - (scores < of_target).sum(1)


def ndcg(ranks: NDArray[np.integer[Any]], k: int) -> NDArray[np.float64]:
    """Return each user's NDCG@k, float64 ``[users]``, of 0-based ranks of one target each."""
    gain: NDArray[np.float64] = (ranks < k) / np.log2(ranks + 2.0)
    return gain


def ranking_metrics(ranks: NDArray[np.int64], cutoffs: Sequence[int] = CUTOFFS) -> dict[str, float]:
    """Return HR, NDCG and MRR at each cutoff, averaged over users; with one target HR is recall.

    Args:
        ranks: int64 ``[users]``, 0-based. Empty gives zeros.
        cutoffs: lengths of the recommended list.
    """
    metrics: dict[str, float] = {}
    for k in cutoffs:
        hit = ranks < k
        n = max(1, len(ranks))
        metrics[f"HR@{k}"] = float(hit.sum() / n)
        metrics[f"NDCG@{k}"] = float(ndcg(ranks, k).sum() / n)
        metrics[f"MRR@{k}"] = float((hit / (ranks + 1.0)).sum() / n)
    return metrics
