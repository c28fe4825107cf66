"""Items that stand near each other in training sequences: SCFT's second kind of positive, and a baseline."""

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor

from llmemb.interactions import LeaveOneOut, Sequences
from trainer.evaluate import Scorer

REACH = 3  # positions apart at most


def neighbours(train: Sequences, n_items: int) -> Sequences:
    """Return the items within ``REACH`` positions of each item, once for each time they met.

    Args:
        train: training sequences.
        n_items: size of the catalogue.

    Returns:
        A ragged list an item; an item's own repetitions are left out.
    """
    owners = np.repeat(np.arange(len(train)), train.lengths)
    pairs = []
    for distance in range(1, REACH + 1):
        together = owners[:-distance] == owners[distance:]
        left, right = train.items[:-distance][together], train.items[distance:][together]
        apart = left != right
        pairs += [(left[apart], right[apart]), (right[apart], left[apart])]
    item = np.concatenate([pair[0] for pair in pairs])
    other = np.concatenate([pair[1] for pair in pairs])
    counts = np.bincount(item, minlength=n_items)
    return Sequences(other[np.argsort(item, kind="stable")], np.append(0, np.cumsum(counts)))


def cooccurrence_scorer(split: LeaveOneOut) -> Scorer:
    """Return the scorer that adds up how often an item met each of the history's last ones.

    Counts are divided by the root of both items' counts (cosine); a history's items weigh 1, 1/2,
    1/3, ... from the newest back.
    """
    near = neighbours(split.train, split.n_items)
    rows = np.repeat(np.arange(split.n_items), near.lengths)
    shape = (split.n_items, split.n_items)
    met = csr_array((np.ones(len(rows), dtype=np.float32), (rows, near.items)), shape=shape)
    scale = 1 / np.sqrt(np.maximum(1, near.lengths).astype(np.float32))
    met = (met.multiply(scale[:, None]).multiply(scale[None, :])).tocsr()

    def scores(histories: list[NDArray[np.int32]]) -> Tensor:
        users = np.repeat(np.arange(len(histories)), [len(history) for history in histories])
        weights = np.concatenate([1 / np.arange(len(history), 0, -1) for history in histories])
        taken = (weights.astype(np.float32), (users, np.concatenate(histories)))
        history = csr_array(taken, shape=(len(histories), split.n_items))
        return torch.from_numpy((history @ met).toarray())

    return scores
