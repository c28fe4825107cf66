"""Sequences without padding: the positions of all of them in one table, sequence after sequence."""

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
    """

    def __init__(self, lengths: Tensor) -> None:
        device = lengths.device
        self.lengths = lengths
        self.last = lengths.cumsum(0) - 1
        first = self.last - lengths + 1
        self._sequences = torch.arange(len(lengths), device=device).repeat_interleave(lengths)
        self.steps = torch.arange(len(self._sequences), device=device) - first[self._sequences]
        sizes = lengths.tolist()
        budget = ATTENTION_POSITIONS if device.type == "cpu" else len(sizes) * max(sizes)
        self.groups: list[tuple[Tensor, Tensor]] = []
        self.back = torch.empty_like(self.steps)
        laid = 0
        for chosen in length_batches(sizes, budget):
            sequences = torch.tensor(chosen, device=device)
            steps = torch.arange(sizes[chosen[0]], device=device)
            real = steps < lengths[sequences, None]
            rows = first[sequences, None] + torch.where(real, steps, 0)
            self.groups.append((rows, real))
            self.back[rows[real]] = laid + real.flatten().nonzero()[:, 0]
            laid += rows.numel()

    def pack(self, padded: Tensor) -> Tensor:
        """Return what stands at the sequences' positions, ``[positions, ...]``.

        Args:
            padded: ``[sequences, length, ...]``, with padding on the right.
        """
        rows = self._sequences * padded.shape[1] + self.steps
        return padded.flatten(0, 1).index_select(0, rows)
