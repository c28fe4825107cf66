"""Training windows of user sequences, batched by length so that little is computed on padding."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llmemb.interactions import Sequences

SORTED_BATCHES = 8  # batches are cut from this many batches' worth of windows, sorted by length


def training_windows(train: Sequences, max_length: int) -> tuple[Tensor, Tensor]:
    """Cut training sequences into windows of up to ``max_length + 1`` items, from the end.

    Neighbouring windows share one item, so that every transition is trained on exactly once.
    A sequence of one item has no transition and gives no window.

    Returns:
        int64 ``[windows, longest]`` items, padded on the right with item 0, and int64 ``[windows]``
        lengths, each at least 2.
    """
    windows = []
    for u in range(len(train)):
        sequence = train[u]
        ends = range(len(sequence), 1, -max_length)
        windows += [sequence[max(0, end - max_length - 1) : end] for end in ends]
    return pad_sequences(windows, max_length + 1)


def pad_sequences(sequences: list[NDArray[np.int32]], max_length: int) -> tuple[Tensor, Tensor]:
    """Keep the last ``max_length`` items of each sequence, pad on the right with item 0.

    Returns:
        int64 ``[sequences, longest]`` items and int64 ``[sequences]`` lengths.
    """
    kept = [sequence[-max_length:] for sequence in sequences]
    lengths = np.array([len(sequence) for sequence in kept], dtype=np.int64)
    items = np.zeros((len(kept), int(lengths.max(initial=0))), dtype=np.int64)
    for row, sequence in enumerate(kept):
        items[row, : len(sequence)] = sequence
    return torch.from_numpy(items), torch.from_numpy(lengths)


def training_batches(
    items: Tensor, lengths: Tensor, batch_size: int, rng: np.random.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield one epoch of batches in random order, each of windows of like length.

    Args:
        items: int64 ``[windows, longest]``, and ``lengths``, as :func:`training_windows` gives them.
        lengths: see ``items``.
        batch_size: windows in a batch.
        rng: decides the order.

    Yields:
        int64 ``[batch, longest of the batch]`` items and int64 ``[batch]`` lengths.
    """
    order = rng.permutation(len(items))
    by_length = lengths.cpu().numpy()
    batches = []
    for start in range(0, len(order), SORTED_BATCHES * batch_size):
        chunk = order[start : start + SORTED_BATCHES * batch_size]
        chunk = chunk[np.argsort(by_length[chunk], kind="stable")]
        batches += [chunk[i : i + batch_size] for i in range(0, len(chunk), batch_size)]
    for i in rng.permutation(len(batches)):
        chosen = torch.from_numpy(batches[i]).to(items.device)
        yield items[chosen, : by_length[batches[i]].max()], lengths[chosen]
