"""Contrastive losses against their definitions."""

import pytest
import torch
from torch.nn import functional as F

from trainer.contrast import InfoNCE, SoftTarget

OWN = torch.arange(4)


def same(*groups: int) -> torch.Tensor:
    numbers = torch.tensor(groups)
    return numbers[:, None] == numbers


APART = same(0, 1, 2, 3)


def test_infonce_is_the_symmetric_cross_entropy_of_scaled_cosines() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(4, 8), torch.randn(4, 8)
    logits = F.cosine_similarity(x[:, None], y[None], dim=-1) / 0.1
    expected = (F.cross_entropy(logits, OWN) + F.cross_entropy(logits.T, OWN)) / 2
    assert InfoNCE(0.1, learnable=False)(x, y, APART) == pytest.approx(expected.item(), rel=1e-5)


def test_the_soft_targets_are_the_papers() -> None:
    torch.manual_seed(0)
    x, y, tau = torch.randn(4, 8), torch.randn(4, 8), 3.0
    logits, targets = x @ y.T / tau, F.softmax((x @ x.T + y @ y.T) / 2 * tau, dim=1)
    columns = F.softmax(((x @ x.T + y @ y.T) / 2 * tau).T, dim=1)
    rows = -(targets * F.log_softmax(logits, 1)).sum(1).mean()
    back = -(columns * F.log_softmax(logits.T, 1)).sum(1).mean()
    assert SoftTarget(tau, learnable=False)(x, y, APART) == pytest.approx(
        ((rows + back) / 2).item()
    )


@pytest.mark.parametrize("loss", [InfoNCE(0.1, learnable=True), SoftTarget(3.0, learnable=True)])
def test_an_identical_item_is_not_a_negative(loss: torch.nn.Module) -> None:
    x = torch.randn(3, 8)
    twice = torch.cat([x, x[:1]])
    masked = loss(twice, twice, same(0, 1, 2, 0))
    assert torch.isfinite(masked)
    # The duplicate's own row sees exactly what the first item's row sees: two other items.
    plain = loss(x, x, same(0, 1, 2))
    rows = [loss(twice[[i, 1, 2]], twice[[i, 1, 2]], same(0, 1, 2)) for i in (0, 3)]
    assert rows[0].item() == pytest.approx(rows[1].item()) == pytest.approx(plain.item())


@pytest.mark.parametrize("loss", [InfoNCE(0.1, learnable=True), SoftTarget(3.0, learnable=True)])
def test_temperature_learns_only_where_asked(loss: torch.nn.Module) -> None:
    x = torch.randn(4, 8, requires_grad=True)
    loss(x, x + 0.1, same(0, 1, 2, 0)).backward()
    assert torch.isfinite(x.grad).all()
    assert all(torch.isfinite(p.grad) for p in loss.parameters())
    assert not [p for p in type(loss)(0.1, learnable=False).parameters() if p.requires_grad]


def test_pulling_pairs_together_lowers_the_loss() -> None:
    torch.manual_seed(0)
    x, noise = torch.randn(16, 8), torch.randn(16, 8)
    near, far = x + 0.1 * noise, noise
    apart = same(*range(16))
    loss = InfoNCE(0.1, learnable=False)
    assert loss(x, near, apart) < loss(x, far, apart)
