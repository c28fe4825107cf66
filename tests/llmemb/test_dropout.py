"""Dropout: what it leaves out, and when."""

import pytest
import torch

from llmemb.dropout import Dropout


@pytest.mark.parametrize("p", [0.1, 0.4, 0.5, 0.9])
def test_a_share_is_left_out_and_the_rest_makes_up_for_it(p: float) -> None:
    torch.manual_seed(0)
    found = Dropout(p)(torch.ones(1000, 301))
    assert torch.allclose(found.unique(), torch.tensor([0, 1 / (1 - p)]))
    assert float((found == 0).float().mean()) == pytest.approx(p, abs=0.005)


def test_every_element_is_drawn_anew() -> None:
    torch.manual_seed(0)
    dropout = Dropout(0.5)
    kept = torch.stack([dropout(torch.ones(4, 37)) > 0 for _ in range(4000)]).double()
    left_out_together = torch.corrcoef(kept.flatten(1).T) - torch.eye(4 * 37)
    assert left_out_together.abs().max() < 0.1


def test_the_gradient_goes_through_what_was_kept() -> None:
    x = torch.randn(50, 7, dtype=torch.bfloat16, requires_grad=True)
    found = Dropout(0.5)(x)
    found.sum().backward()
    assert found.dtype == torch.bfloat16
    assert torch.equal(x.grad * x, found)


def test_seeded_alike_it_leaves_out_the_same() -> None:
    drawn = []
    for _ in range(2):
        torch.manual_seed(3)
        drawn.append(Dropout(0.3)(torch.ones(100)))
    assert torch.equal(*drawn)


@pytest.mark.parametrize("dropout", [Dropout(0.5).eval(), Dropout(0.0)])
def test_without_training_or_share_nothing_happens(dropout: Dropout) -> None:
    x = torch.randn(5, 3)
    assert dropout(x) is x
