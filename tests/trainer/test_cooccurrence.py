"""Which items met, counted by hand."""

import numpy as np
import torch

from llmemb.interactions import Sequences, leave_one_out
from trainer.cooccurrence import REACH, cooccurrence_scorer, neighbours


def test_neighbours_are_those_within_reach_in_the_same_sequence() -> None:
    items = np.array([0, 1, 2, 3, 4, 5, 0, 0, 5], dtype=np.int32)
    found = neighbours(Sequences(items, np.array([0, 5, 9])), 7)
    assert REACH == 3
    assert [sorted(found[i].tolist()) for i in range(7)] == [
        [1, 2, 3, 5, 5, 5, 5],  # both of its visits in the second sequence met both of item 5's
        [0, 2, 3, 4],
        [0, 1, 3, 4],
        [0, 1, 2, 4],
        [1, 2, 3],
        [0, 0, 0, 0],
        [],
    ]


def test_the_scorer_prefers_what_met_the_newest_items() -> None:
    # Two users each, whose last two items are held out of the counts.
    sequences = [[0, 1, 4, 4], [0, 1, 4, 4], [2, 3, 4, 4], [2, 3, 4, 4]]
    items = np.array(sequences, dtype=np.int32).flatten()
    split = leave_one_out(Sequences(items, np.arange(0, 17, 4)), 6)
    scorer = cooccurrence_scorer(split)
    scores = scorer([np.array([2, 0], dtype=np.int32), np.array([5], dtype=np.int32)])
    assert scores.shape == (2, 6)
    assert scores[0].argmax() == 1
    assert torch.equal(scores[0, [3, 1]], torch.tensor([0.5, 1.0]) * scores[0, 1])
    assert not scores[1].any()
