"""Where a backbone's item vectors come from while it trains: an ID embedding, or the adapter."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from llmemb.adapter import Adapter


class ItemTable(nn.Module):
    """The interface: called, it gives item vectors."""

    candidates: Tensor  # int64 ``[candidates]``, ascending: items that a target is told apart from

    def forward(self, items: Tensor | None = None) -> Tensor:
        """Return item vectors, float ``[items, width]``.

        Args:
            items: int64 ``[items]``, which ones, each once; ``None``: all of them.
        """
        raise NotImplementedError


class IdTable(ItemTable):
    """A learnt vector an item: the ID-only SRS.

    An item never seen in training is a negative like all others, so that it ends below them.

    Args:
        vectors: float ``[items, width]``, where they start.
    """

    def __init__(self, vectors: Tensor) -> None:
        super().__init__()
        self.vectors = nn.Parameter(vectors)
        self.register_buffer("candidates", torch.arange(len(vectors)), persistent=False)

    @classmethod
    def random(cls, n_items: int, width: int) -> "IdTable":
        """Return a table of random vectors whose norm is about 1."""
        return cls(torch.randn(n_items, width) * width**-0.5)

    def forward(self, items: Tensor | None = None) -> Tensor:
        """Return rows of the embedding itself."""
        return self.vectors if items is None else F.embedding(items, self.vectors)


class AdaptedTable(ItemTable):
    """Adapted LLM vectors, plus a learnt residual for items seen in training.

    ``e = A(z) + g r`` with ``r`` starting at zero and ``g`` 0 for an item without training
    interactions (AlphaFuse, SIGIR 2025, adds IDs in a like way). Residuals are left out at random
    while training, so that the adapter has to carry every item alone and a cold item can rely on it.
    A cold item is nobody's negative: the adapter would learn to push away what nobody has met.

    Args:
        projected: float32 ``[items, projected]``, frozen.
        adapter: maps them to the SRS space.
        seen: bool ``[items]``, whether an item has training interactions.
        id_dropout: share of residuals left out of a training step; ``None``: no residuals at all.
    """

    projected: Tensor
    gate: Tensor

    def __init__(
        self,
        projected: NDArray[np.float32],
        adapter: Adapter,
        seen: NDArray[np.bool_],
        id_dropout: float | None,
    ) -> None:
        super().__init__()
        self.adapter = adapter
        self.id_dropout = id_dropout
        self.register_buffer("projected", torch.from_numpy(projected), persistent=False)
        self.register_buffer("gate", torch.from_numpy(seen).float()[:, None], persistent=False)
        candidates = torch.from_numpy(np.flatnonzero(seen))
        self.register_buffer("candidates", candidates, persistent=False)
        self.residual = (
            None
            if id_dropout is None
            else nn.Parameter(torch.zeros(len(projected), adapter.settings.outputs))
        )

    def forward(self, items: Tensor | None = None) -> Tensor:
        """Return adapted vectors plus the gated residual."""
        adapted: Tensor = self.adapter(self.projected if items is None else self.projected[items])
        if self.residual is None or self.id_dropout is None:
            return adapted
        gate = self.gate if items is None else self.gate[items]
        if self.training:
            gate = gate * (torch.rand_like(gate) >= self.id_dropout)
        residual = self.residual if items is None else F.embedding(items, self.residual)
        return adapted + gate * residual

    def residuals(self) -> NDArray[np.float32] | None:
        """Return what is added for each item, float32 ``[items, width]``; None: nothing is."""
        if self.residual is None:
            return None
        gated: NDArray[np.float32] = (self.gate * self.residual).detach().numpy()
        return gated
