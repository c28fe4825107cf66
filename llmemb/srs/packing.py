"""Sequences without padding: the positions of all of them in one table, sequence after sequence."""

import numpy as np
import torch
from torch import Tensor

from llmemb.forward import length_batches

ATTENTION_POSITIONS = 2048  # padded positions of sequences that attend side by side, on a CPU


class Packing:
    """Where the positions of sequences lie in the table, and in groups of like length for attention.

    Args:
        lengths: int64 ``[sequences]``, each at least 1.

    Attributes:
        lengths: as given.
        steps: int64 ``[positions]``, each position's place in its sequence, from 0.
        last: int64 ``[sequences]``, the row of each sequence's last position.
        groups: of attention, each int64 ``[sequences, longest]`` rows of the table and bool of the same
            shape: which of them are no padding. Padding repeats a row.
        back: int64 ``[positions]``, where each position lies in all groups laid end to end.
        even: there is one group, and it is the table: sequences of one length, as a lone one is.
    """

    def __init__(self, lengths: Tensor) -> None:
        device = lengths.device
        sizes = (
            lengths.cpu().numpy()
        )  # NumPy: a short sequence would take longer to plan than to read
        last = sizes.cumsum() - 1
        first = last - sizes + 1
        sequences = np.repeat(np.arange(len(sizes)), sizes)
        steps = np.arange(len(sequences)) - first[sequences]
        back, laid = np.empty_like(steps), 0
        budget = ATTENTION_POSITIONS if device.type == "cpu" else len(sizes) * int(sizes.max())
        self.groups: list[tuple[Tensor, Tensor]] = []
        for chosen in length_batches(sizes.tolist(), budget):
            places = np.arange(sizes[chosen[0]])
            real = places < sizes[chosen, None]
            rows = first[chosen, None] + places * real
            back[rows[real]] = laid + np.flatnonzero(real)
            laid += rows.size
            self.groups.append(
                (torch.from_numpy(rows).to(device), torch.from_numpy(real).to(device))
            )
        self.even = len(self.groups) == 1 and laid == len(steps)
        self.lengths = lengths
        self.steps = torch.from_numpy(steps).to(device)
        self.last = torch.from_numpy(last).to(device)
        self.back = torch.from_numpy(back).to(device)
        self._sequences = torch.from_numpy(sequences).to(device)

    def pack(self, padded: Tensor) -> Tensor:
        """Return what stands at the sequences' positions, ``[positions, ...]``.

        Args:
            padded: ``[sequences, length, ...]``, with padding on the right.
        """
        if self.even and padded.shape[1] * len(self.lengths) == len(self.steps):
            return padded.flatten(0, 1)
        rows = self._sequences * padded.shape[1] + self.steps
        return padded.flatten(0, 1).index_select(0, rows)
