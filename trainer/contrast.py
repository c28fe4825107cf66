"""Contrastive losses between two views of a batch of items: SCFT and the alignment of RAT."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MAX_SCALE = 100.0  # keeps a learnt temperature at or above 0.01, as in CLIP


class InfoNCE(nn.Module):
    """Symmetric cosine InfoNCE with a false-negative mask (CLIP, arXiv 2103.00020).

    Args:
        temperature: starting value.
        learnable: whether the temperature is trained.
    """

    def __init__(self, temperature: float, *, learnable: bool) -> None:
        super().__init__()
        scale = torch.tensor(math.log(1 / temperature))
        self.log_scale = nn.Parameter(scale, requires_grad=learnable)

    def forward(self, x: Tensor, y: Tensor, same: Tensor) -> Tensor:
        """Return the loss, a scalar.

        Args:
            x: float ``[batch, width]``, one view.
            y: float ``[batch, width]``, the other view; row ``i`` is the positive of ``x[i]``.
            same: bool ``[batch, batch]``, where ``y[j]`` is no true negative of ``x[i]``: the same
                item, or one that reads the same. The diagonal does not matter.
        """
        scale = self.log_scale.exp().clamp(max=MAX_SCALE)
        logits = scale * F.normalize(x, dim=1) @ F.normalize(y, dim=1).T
        return _symmetric_cross_entropy(logits.masked_fill(_off_diagonal(same), -torch.inf))


class SoftTarget(nn.Module):
    """The paper's loss (equation 4 and its release): dot products against soft targets.

    Logits are ``X Y' / tau``, targets ``softmax((X X' + Y Y') / 2 * tau)``; mean of both directions.
    """

    def __init__(self, temperature: float, *, learnable: bool) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.tensor(temperature), requires_grad=learnable)

    def forward(self, x: Tensor, y: Tensor, same: Tensor) -> Tensor:
        """Return the loss, a scalar; arguments as in :class:`InfoNCE`."""
        hidden = _off_diagonal(same)
        logits = (x @ y.T / self.temperature).masked_fill(hidden, -torch.inf)
        likeness = self.likeness(x, y).masked_fill(hidden, -torch.inf)
        targets = F.softmax(likeness, dim=1).detach()
        columns = F.softmax(likeness.T, dim=1).detach()
        return (_soft_cross_entropy(logits, targets) + _soft_cross_entropy(logits.T, columns)) / 2

    def likeness(self, x: Tensor, y: Tensor) -> Tensor:
        """Return what the targets are the softmax of, float ``[batch, batch]``; views as in ``forward``."""
        return (x @ x.T + y @ y.T) / 2 * self.temperature


def contrastive_loss(name: str, temperature: float, *, learnable: bool) -> InfoNCE | SoftTarget:
    """Return the contrastive loss of that name, ``infonce`` or ``soft``."""
    losses: dict[str, type[InfoNCE | SoftTarget]] = {"infonce": InfoNCE, "soft": SoftTarget}
    return losses[name](temperature, learnable=learnable)


def _off_diagonal(same: Tensor) -> Tensor:
    return same & ~torch.eye(len(same), dtype=torch.bool, device=same.device)


def _symmetric_cross_entropy(logits: Tensor) -> Tensor:
    own = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def _soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    # A masked pair has logit -inf and target 0: its product would be NaN, not 0.
    log_probabilities = F.log_softmax(logits, dim=1).masked_fill(torch.isinf(logits), 0.0)
    return -(targets * log_probabilities).sum(1).mean()
