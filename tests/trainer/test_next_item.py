"""Next-item losses against their definitions."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from trainer import next_item
from trainer.next_item import (
    LossName,
    Repeats,
    bce_loss,
    draw_negatives,
    gbce_loss,
    next_item_loss,
    softmax_loss,
    usual_score,
)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def batch() -> tuple[Tensor, Tensor, Tensor]:
    states = torch.randn(7, 4, dtype=torch.float64, requires_grad=True)
    vectors = torch.randn(10, 4, dtype=torch.float64, requires_grad=True)
    return states, torch.randint(10, (7,)), vectors


@pytest.mark.parametrize("chunk_rows", [1, 3, 100])
def test_the_full_softmax_is_cross_entropy_with_its_gradients(
    monkeypatch: pytest.MonkeyPatch, chunk_rows: int
) -> None:
    monkeypatch.setattr(next_item, "CHUNK_BYTES", 4 * 10 * chunk_rows)
    monkeypatch.setattr(next_item, "CHUNK_ROWS", 1)
    states, positive, vectors = batch()
    expected = F.cross_entropy(states @ vectors.T, positive)
    wanted = torch.autograd.grad(3 * expected, (states, vectors))
    loss = softmax_loss(states, positive, vectors, torch.randperm(10))
    found = torch.autograd.grad(3 * loss, (states, vectors))
    assert torch.allclose(loss, expected)
    assert all(torch.allclose(a, b) for a, b in zip(found, wanted, strict=True))


def test_the_sampled_softmax_leaves_a_positive_out_of_its_negatives() -> None:
    states, positive, vectors = batch()
    negatives = torch.tensor([9, 3, 5, 8, 0])
    own = (states * vectors[positive]).sum(1)
    others = states @ vectors[negatives].T
    others = others.masked_fill(negatives == positive[:, None], -torch.inf)
    expected = F.cross_entropy(torch.cat([own[:, None], others], 1), torch.zeros_like(positive))
    wanted = torch.autograd.grad(expected, (states, vectors))
    loss = softmax_loss(states, positive, vectors, negatives)
    found = torch.autograd.grad(loss, (states, vectors))
    assert torch.allclose(loss, expected)
    assert all(torch.allclose(a, b) for a, b in zip(found, wanted, strict=True))


def test_the_softmax_of_huge_scores_is_finite() -> None:
    vectors = torch.tensor([[300.0], [-300.0]], requires_grad=True)
    loss = softmax_loss(torch.ones(2, 1), torch.tensor([0, 1]), vectors, torch.tensor([1]))
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-4)
    assert vectors.grad is not None
    assert vectors.grad.flatten().tolist() == pytest.approx([0, 0], abs=1e-4)


def test_softmax_starts_at_the_logarithm_of_the_catalogue() -> None:
    states, table = torch.zeros(5, 4), torch.randn(10, 4)
    loss = softmax_loss(states, torch.arange(5), table, torch.arange(10))
    assert loss == pytest.approx(math.log(10))


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


def test_gbce_begins_where_raising_all_scores_alike_would_change_nothing() -> None:
    score = torch.tensor(usual_score("gbce", negatives=3, candidates=10), requires_grad=True)
    vectors = torch.stack([score.expand(1)] * 10)
    loss = gbce_loss(torch.ones(7, 1), torch.arange(7) % 5, vectors, torch.tensor([6, 7, 8]), 10)
    assert torch.autograd.grad(loss, score)[0] == pytest.approx(0, abs=1e-6)


def test_bce_takes_one_negative_a_position() -> None:
    states, positive, vectors = batch()
    negatives = (positive + 1) % 10
    own, other = (states * vectors[positive]).sum(1), (states * vectors[negatives]).sum(1)
    both = torch.cat([own, other])
    truth = torch.cat([torch.ones(7), torch.zeros(7)]).double()
    expected = 2 * F.binary_cross_entropy_with_logits(both, truth)
    assert torch.allclose(bce_loss(states, positive, vectors, negatives), expected)


@pytest.mark.parametrize(
    ("name", "negatives"), [("sampled", [0, 1]), ("gbce", [0, 1]), ("bce", [0, 0, 1])]
)
def test_a_target_is_never_its_own_negative(name: LossName, negatives: list[int]) -> None:
    states, vectors = torch.full((3, 1), 20.0), torch.tensor([[1.0], [-1.0]])
    positive, others = torch.zeros(3, dtype=torch.int64), torch.tensor(negatives)
    loss = next_item_loss(name, states, positive, vectors, others, candidates=2)
    assert loss == pytest.approx(0, abs=4e-6)  # two roundings of a score of 20


@pytest.mark.parametrize(
    ("name", "count"), [("softmax", 4), ("sampled", 3), ("gbce", 3), ("bce", 9)]
)
def test_negatives_come_from_the_candidates(name: LossName, count: int) -> None:
    candidates = torch.tensor([1, 4, 5, 8])
    drawn = draw_negatives(name, candidates, positions=9, shared=3)
    assert len(drawn) == count
    assert set(drawn.tolist()) <= set(candidates.tolist())
    assert name == "bce" or len(drawn.unique()) == len(drawn)


def repeated(bias: Tensor, *, paired: bool = False) -> tuple[Repeats, Tensor, Tensor, Tensor]:
    """Return repeats, the targets, the negatives, and which item each position has read."""
    sequences = torch.tensor([[4, 1, 4, 2], [4, 1, 4, 2], [3, 7, 0, 0], [6, 9, 9, 8]])
    read = torch.tensor([[1, 0, 0, 0], [1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 0]]).bool()
    positive, negatives = torch.tensor([1, 4, 7, 9]), torch.tensor([9, 1, 3, 4, 0])
    met = torch.zeros(4, 10, dtype=torch.bool)
    met[torch.arange(4)[:, None].expand_as(read)[read], sequences[read]] = True
    found = Repeats.find(bias, sequences, read, positive, negatives, paired=paired)
    return found, positive, negatives, met


@pytest.mark.parametrize("chunk_rows", [1, 3, 100])
def test_softmax_with_repeats_is_cross_entropy_over_biased_scores(
    monkeypatch: pytest.MonkeyPatch, chunk_rows: int
) -> None:
    monkeypatch.setattr(next_item, "CHUNK_BYTES", 4 * 5 * chunk_rows)
    monkeypatch.setattr(next_item, "CHUNK_ROWS", 1)
    states, _, vectors = batch()
    bias = torch.tensor(-1.5, dtype=torch.float64, requires_grad=True)
    repeats, positive, negatives, met = repeated(bias)
    scores = states[:4] @ vectors.T + bias * met
    others = scores[:, negatives].masked_fill(negatives == positive[:, None], -torch.inf)
    own = scores.gather(1, positive[:, None])
    expected = F.cross_entropy(torch.cat([own, others], 1), torch.zeros_like(positive))
    wanted = torch.autograd.grad(expected, (states, vectors, bias))
    loss = softmax_loss(states[:4], positive, vectors, negatives, repeats)
    found = torch.autograd.grad(loss, (states, vectors, bias))
    assert torch.allclose(loss, expected)
    assert all(torch.allclose(a, b) for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("name", ["gbce", "bce"])
def test_the_other_losses_score_repeats_with_the_bias_too(name: LossName) -> None:
    states, _, vectors = batch()
    bias = torch.tensor(-1.5, dtype=torch.float64)
    repeats, positive, negatives, met = repeated(bias, paired=name == "bce")
    # One more column: the bias of each item, asked for by a user who has met that item.
    wider = torch.cat([vectors, bias * torch.eye(10).double()], 1)
    asking = torch.cat([states[:4], met.double()], 1)
    expected = next_item_loss(name, asking, positive, wider, negatives, 10)
    found = next_item_loss(name, states[:4], positive, vectors, negatives, 10, repeats)
    assert torch.allclose(found, expected)
