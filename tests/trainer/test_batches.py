"""Windows and batches: nothing lost, nothing padded beyond the longest."""

from itertools import chain, pairwise

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from llmemb.interactions import Sequences
from trainer.batches import pad_sequences, training_batches, training_windows

lists = st.lists(st.lists(st.integers(0, 30), max_size=25), min_size=1, max_size=12)


def ragged(items: list[list[int]]) -> Sequences:
    lengths = [len(one) for one in items]
    return Sequences(
        np.array([*chain.from_iterable(items)], dtype=np.int32),
        np.concatenate([[0], np.cumsum(lengths)]),
    )


def unpadded(items: torch.Tensor, lengths: torch.Tensor) -> list[list[int]]:
    return [row[:length].tolist() for row, length in zip(items, lengths, strict=True)]


@given(lists, st.integers(1, 9))
def test_every_transition_is_trained_on_exactly_once(
    items: list[list[int]], max_length: int
) -> None:
    windows = unpadded(*training_windows(ragged(items), max_length))
    assert all(2 <= len(window) <= max_length + 1 for window in windows)
    expected = sorted(pair for one in items for pair in pairwise(one))
    assert sorted(pair for window in windows for pair in pairwise(window)) == expected


@given(lists, st.integers(1, 5), st.integers(0, 5))
def test_an_epoch_holds_every_window_once(items: list[list[int]], size: int, seed: int) -> None:
    windows, lengths = training_windows(ragged(items), 8)
    found = []
    for batch, batch_lengths in training_batches(
        windows, lengths, size, np.random.default_rng(seed)
    ):
        assert len(batch) == len(batch_lengths) <= size
        assert batch.shape[1] == batch_lengths.max()
        found += unpadded(batch, batch_lengths)
    assert sorted(found) == sorted(unpadded(windows, lengths))


def test_a_long_history_keeps_its_most_recent_items() -> None:
    items, lengths = pad_sequences([np.arange(10, dtype=np.int32), np.array([3], np.int32)], 4)
    assert items.tolist() == [[6, 7, 8, 9], [3, 0, 0, 0]]
    assert lengths.tolist() == [4, 1]
