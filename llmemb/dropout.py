"""Dropout whose random mask costs little on a CPU."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LEVELS = 2**16  # of a random number


class Dropout(nn.Module):
    """As ``torch.nn.Dropout``, which draws a 64-bit number an element on a CPU; here that makes four.

    Args:
        p: share of elements left out while training, to 1/65,536.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Return the elements that are kept, scaled up so that the sum stays what it is on average."""
        if not self.training or not self.p:
            return x
        if x.device.type != "cpu":
            return F.dropout(x, self.p)
        drawn = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        kept = drawn.view(torch.int16)[: x.numel()] >= round(self.p * LEVELS) - LEVELS // 2
        return x * kept.view(x.shape).to(x.dtype).mul_(1 / (1 - self.p))
