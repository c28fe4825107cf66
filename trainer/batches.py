"""Training windows of user sequences, batched by length so that little is computed on padding."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llmemb.interactions import Sequences

SORTED_BATCHES = 8  # batches are cut from this many batches' worth of windows, sorted by length


@dataclass(frozen=True)
class Batch:
    """Sequences padded on the right with item 0, trimmed to the longest of them.

    Attributes:
        items: int64 ``[batch, length]``.
        lengths: int64 ``[batch]``.
        targets: int64 ``[batch, length]``, the item after each position; -1 on padding.
    """

    items: Tensor
    lengths: Tensor
    targets: Tensor


def training_windows(train: Sequences, max_length: int) -> list[NDArray[np.int32]]:
    """Cut training sequences into windows of up to ``max_length + 1`` items, from the end.

    Neighbouring windows share one item, so that every transition is trained on exactly once.
    A sequence of one item has no transition and gives no window.
    """
    windows: list[NDArray[np.int32]] = []
    for u in range(len(train)):
        sequence = train[u]
        ends = range(len(sequence), 1, -max_length)
        windows += [sequence[max(0, end - max_length - 1) : end] for end in ends]
    return windows


def pad_sequences(sequences: list[NDArray[np.int32]], max_length: int) -> tuple[Tensor, Tensor]:
    """Keep the last ``max_length`` items of each sequence, pad on the right with item 0.

    Returns:
        int64 ``[batch, longest]`` items and int64 ``[batch]`` lengths.
    """
    kept = [sequence[-max_length:] for sequence in sequences]
    lengths = np.array([len(sequence) for sequence in kept])
    items = np.zeros((len(kept), int(lengths.max())), dtype=np.int64)
    for row, sequence in enumerate(kept):
        items[row, : len(sequence)] = sequence
    return torch.from_numpy(items), torch.from_numpy(lengths)


def training_batches(
    windows: list[NDArray[np.int32]],
    batch_size: int,
    rng: np.random.Generator,
    device: torch.device,
) -> Iterator[Batch]:
    """Yield one epoch of batches on a device, in random order, each of windows of like length."""
    order = rng.permutation(len(windows))
    batches = []
    for start in range(0, len(order), SORTED_BATCHES * batch_size):
        chunk = order[start : start + SORTED_BATCHES * batch_size]
        by_length = sorted(chunk, key=lambda i: len(windows[i]))
        batches += [by_length[i : i + batch_size] for i in range(0, len(by_length), batch_size)]
    for i in rng.permutation(len(batches)):
        chosen = [windows[j] for j in batches[i]]
        items, _ = pad_sequences(chosen, max(len(window) for window in chosen))
        lengths = torch.tensor([len(window) - 1 for window in chosen])
        targets = items[:, 1:].clone()
        targets[torch.arange(targets.shape[1]) >= lengths[:, None]] = -1
        yield Batch(items[:, :-1].to(device), lengths.to(device), targets.to(device))
