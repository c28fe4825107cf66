"""Where a backbone's item vectors come from while it trains: an ID embedding, or the adapter."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from llmemb.adapter import Adapter


class ItemTable(nn.Module):
    """The interface: called, it gives every item's vector, float ``[items, width]``."""

    def forward(self) -> Tensor:
        """Return all item vectors, float ``[items, width]``."""
        raise NotImplementedError


class IdTable(ItemTable):
    """A learnt vector an item: the ID-only SRS. An item never seen in training keeps its random one."""

    def __init__(self, n_items: int, width: int) -> None:
        super().__init__()
        self.vectors = nn.Parameter(torch.randn(n_items, width) * width**-0.5)

    def forward(self) -> Tensor:
        """Return the embedding itself."""
        return self.vectors


class AdaptedTable(ItemTable):
    """Adapted LLM vectors, plus a learnt residual for items seen in training.

    ``e = A(z) + g r`` with ``r`` starting at zero and ``g`` 0 for an item without training
    interactions (AlphaFuse, SIGIR 2025, adds IDs in a like way). Residuals are left out at random
    while training, so that the adapter has to carry every item alone and a cold item can rely on it.

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
        self.residual = (
            None
            if id_dropout is None
            else nn.Parameter(torch.zeros(len(projected), adapter.settings.outputs))
        )

    def forward(self) -> Tensor:
        """Return adapted vectors plus the gated residual."""
        adapted: Tensor = self.adapter(self.projected)
        if self.residual is None or self.id_dropout is None:
            return adapted
        gate = self.gate
        if self.training:
            gate = gate * (torch.rand_like(gate) >= self.id_dropout)
        return adapted + gate * self.residual
