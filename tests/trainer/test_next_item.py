"""Next-item losses against their definitions."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from trainer import next_item
from trainer.next_item import (
    LossName,
    bce_loss,
    draw_negatives,
    gbce_loss,
    next_item_loss,
    sampled_softmax_loss,
    softmax_loss,
)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def batch() -> tuple[Tensor, Tensor, Tensor]:
    states = torch.randn(7, 4, dtype=torch.float64, requires_grad=True)
    vectors = torch.randn(10, 4, dtype=torch.float64, requires_grad=True)
    return states, torch.randint(10, (7,)), vectors


@pytest.mark.parametrize("chunk_rows", [1, 3, 100])
def test_the_chunked_softmax_is_cross_entropy_with_its_gradients(
    monkeypatch: pytest.MonkeyPatch, chunk_rows: int
) -> None:
    monkeypatch.setattr(next_item, "CHUNK_BYTES", 4 * 10 * chunk_rows)
    states, positive, vectors = batch()
    expected = F.cross_entropy(states @ vectors.T, positive)
    wanted = torch.autograd.grad(3 * expected, (states, vectors))
    loss = softmax_loss(states, positive, vectors)
    found = torch.autograd.grad(3 * loss, (states, vectors))
    assert torch.allclose(loss, expected)
    assert all(torch.allclose(a, b) for a, b in zip(found, wanted, strict=True))


def test_softmax_starts_at_the_logarithm_of_the_catalogue() -> None:
    states, table = torch.zeros(5, 4), torch.randn(10, 4)
    assert softmax_loss(states, torch.arange(5), table) == pytest.approx(math.log(10))


def test_sampled_softmax_with_every_item_as_negative_is_the_full_one() -> None:
    states, positive, vectors = batch()
    found = sampled_softmax_loss(states, positive, vectors, torch.arange(10))
    assert torch.allclose(found, F.cross_entropy(states @ vectors.T, positive))


def test_gbce_is_the_papers_formula() -> None:
    states, positive, vectors = batch()
    positive, negatives = positive % 5, torch.tensor([6, 7, 8])
    alpha, t = 3 / 9, 0.75
    beta = alpha * (t * (1 - 1 / alpha) + 1 / alpha)
    own = torch.sigmoid((states * vectors[positive]).sum(1))
    others = torch.sigmoid(states @ vectors[negatives].T)
    expected = -(beta * own.log() + (1 - others).log().sum(1)).mean()
    found = gbce_loss(states, positive, vectors, negatives, candidates=10)
    assert torch.allclose(found, expected)


def test_bce_takes_one_negative_a_position() -> None:
    states, positive, vectors = batch()
    negatives = (positive + 1) % 10
    own, other = (states * vectors[positive]).sum(1), (states * vectors[negatives]).sum(1)
    both = torch.cat([own, other])
    truth = torch.cat([torch.ones(7), torch.zeros(7)]).double()
    expected = 2 * F.binary_cross_entropy_with_logits(both, truth)
    assert torch.allclose(bce_loss(states, positive, vectors, negatives), expected)


@pytest.mark.parametrize("name", ["sampled", "gbce", "bce"])
def test_a_target_is_never_its_own_negative(name: LossName) -> None:
    states, vectors = torch.full((3, 1), 20.0), torch.tensor([[1.0], [-1.0]])
    positive, negatives = torch.zeros(3, dtype=torch.int64), torch.tensor([0, 0, 0, 1])
    loss = next_item_loss(name, states, positive, vectors, negatives, candidates=2)
    assert loss == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "count"), [("softmax", 4), ("sampled", 6), ("gbce", 6), ("bce", 9)]
)
def test_negatives_come_from_the_candidates(name: LossName, count: int) -> None:
    candidates = torch.tensor([1, 4, 5, 8])
    drawn = draw_negatives(name, candidates, positions=9, shared=6)
    assert len(drawn) == count
    assert set(drawn.tolist()) <= set(candidates.tolist())
