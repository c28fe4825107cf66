"""Next-item losses: over every candidate, or over negatives drawn uniformly for a whole batch.

All take scores to be products of user and item vectors. Negatives are shared by the positions of a
batch, which makes their scores one matrix product.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from torch import Tensor
from torch.nn import functional as F

CHUNK_BYTES = 1024 * 1024  # of scores held at a time: they stay in a core's cache,
CHUNK_ROWS = 64  # but a product of fewer rows is slow
GBCE_CALIBRATION = 0.75  # the t of gSASRec's experiments


LossName = Literal["softmax", "sampled", "gbce", "bce"]


@dataclass(frozen=True)
class Repeats:
    """Which of the scored items a user has met already; those get a bias on their score.

    Attributes:
        bias: float scalar.
        positives: bool ``[positions]``, whether the position's target was met before.
        negatives: int64 ``[2, pairs]``, position and place in ``negatives`` of each negative that
            was met before: ascending, each pair once.
    """

    bias: Tensor
    positives: Tensor
    negatives: Tensor

    @classmethod
    def none(cls, states: Tensor, positive: Tensor) -> Self:
        """Return that nothing was met before."""
        met = torch.zeros_like(positive, dtype=torch.bool)
        return cls(states.new_zeros(()), met, positive.new_empty(2, 0))

    @classmethod
    def find(
        cls,
        bias: Tensor,
        sequences: Tensor,
        read: Tensor,
        positive: Tensor,
        negatives: Tensor,
        *,
        paired: bool,
    ) -> Self:
        """Look for targets and negatives in what was read.

        Args:
            bias: float scalar.
            sequences: int64 ``[positions, length]``, each position's sequence.
            read: bool ``[positions, length]``, which of its items the position has read.
            positive: int64 ``[positions]``, the targets.
            negatives: int64 ``[negatives]``; each once, unless ``paired``.
            paired: position ``i`` is told apart from negative ``i`` alone, and not from all.
        """
        positives = ((sequences == positive[:, None]) & read).any(1)
        if paired:
            negatives = negatives[: len(positive), None]
            met = ((sequences == negatives) & read).any(1).nonzero()[:, 0]
            return cls(bias, positives, torch.stack([met, met]))
        highest = int(torch.maximum(sequences.max(), negatives.max()))
        place = sequences.new_full((highest + 1,), -1)
        place[negatives] = torch.arange(len(negatives), device=place.device)
        places = place[sequences]
        position, step = (read & (places >= 0)).nonzero(as_tuple=True)
        pairs = torch.unique(position * len(negatives) + places[position, step])
        return cls(bias, positives, torch.stack([pairs // len(negatives), pairs % len(negatives)]))


def draw_negatives(name: LossName, candidates: Tensor, positions: int, shared: int) -> Tensor:
    """Return the items that a batch's targets are told apart from, int64 ``[negatives]``.

    Args:
        name: the loss.
        candidates: int64 ``[candidates]``, which may be drawn.
        positions: an upper bound of how many targets there are; ``bce`` draws one for each.
        shared: how many the sampled losses draw for the whole batch, each item once.
    """
    if name == "softmax":
        return candidates
    if name == "bce":
        return candidates[torch.randint(len(candidates), (positions,), device=candidates.device)]
    return candidates[torch.randperm(len(candidates), device=candidates.device)[:shared]]


def next_item_loss(
    name: LossName,
    states: Tensor,
    positive: Tensor,
    vectors: Tensor,
    negatives: Tensor,
    candidates: int,
    repeats: Repeats | None = None,
) -> Tensor:
    """Return the loss of that name, a scalar.

    Args:
        name: ``softmax`` over all candidates; ``sampled`` softmax, ``gbce`` and ``bce`` over some.
        states: float ``[positions, width]`` user vectors.
        positive: int64 ``[positions]``, the row of ``vectors`` that each should score highest.
        vectors: float ``[items, width]`` item vectors.
        negatives: int64 ``[negatives]``, rows of ``vectors``, as :func:`draw_negatives` chose them.
        candidates: how many items they were drawn from.
        repeats: what the users have met already, where such items score differently.
    """
    if name in ("softmax", "sampled"):
        return softmax_loss(states, positive, vectors, negatives, repeats)
    if name == "gbce":
        return gbce_loss(states, positive, vectors, negatives, candidates, repeats)
    return bce_loss(states, positive, vectors, negatives, repeats)


def softmax_loss(
    states: Tensor,
    positive: Tensor,
    vectors: Tensor,
    negatives: Tensor,
    repeats: Repeats | None = None,
) -> Tensor:
    """Cross-entropy of each positive against the negatives, never holding all scores at once.

    With every item a negative this is the full softmax. A position's positive counts once, whether
    or not the negatives hold it.

    Args:
        states: float ``[positions, width]`` user vectors.
        positive: int64 ``[positions]``, the row of ``vectors`` that each should score highest.
        vectors: float ``[items, width]`` item vectors.
        negatives: int64 ``[negatives]``, rows of ``vectors``, in any order.
        repeats: see :func:`next_item_loss`.
    """
    met = repeats or Repeats.none(states, positive)
    return _chunked_softmax(
        states, positive, vectors, negatives, met.bias, met.positives, met.negatives
    )


def gbce_loss(
    states: Tensor,
    positive: Tensor,
    vectors: Tensor,
    negatives: Tensor,
    candidates: int,
    repeats: Repeats | None = None,
) -> Tensor:
    """Generalised binary cross-entropy (gSASRec, RecSys 2023, arXiv 2308.07192, equation 14).

    Args:
        states: float ``[positions, width]`` user vectors.
        positive: int64 ``[positions]``, rows of ``vectors``.
        vectors: float ``[items, width]`` item vectors.
        negatives: int64 ``[negatives]``, rows of ``vectors``, uniform over the candidates.
        candidates: how many those are.
        repeats: see :func:`next_item_loss`.
    """
    own = _positive_scores(states, positive, vectors, repeats)
    others = states @ F.embedding(negatives, vectors).T
    if repeats is not None:
        pairs = repeats.negatives
        others = others.index_put(tuple(pairs), repeats.bias.expand(pairs.shape[1]), True)
    others = others.masked_fill(negatives == positive[:, None], -torch.inf)
    power = _gbce_power(len(negatives), candidates)
    return (power * F.softplus(-own) + F.softplus(others).sum(1)).mean()


def usual_score(name: LossName, negatives: int, candidates: int) -> float:
    """Return the score of an item of which nothing is known, under a loss; it is added to every score.

    The order of items does not depend on it. Under ``gbce``, with a thousand negatives to a positive,
    it is far below zero. Left to be learnt, it is all that the first epochs learn, and their gradients
    are so large that Adam, which remembers them for a thousand steps, learns little else for long.

    Args:
        name: the loss.
        negatives: shared by a batch.
        candidates: how many they are drawn from.
    """
    if name != "gbce":
        return 0.0
    negatives = min(negatives, candidates)
    return math.log(_gbce_power(negatives, candidates) / negatives)


def _gbce_power(negatives: int, candidates: int) -> float:
    """Return the weight of a positive, as gSASRec calibrates it."""
    sampled = negatives / max(1, candidates - 1)
    return sampled * (GBCE_CALIBRATION * (1 - 1 / sampled) + 1 / sampled)


def bce_loss(
    states: Tensor,
    positive: Tensor,
    vectors: Tensor,
    negatives: Tensor,
    repeats: Repeats | None = None,
) -> Tensor:
    """Binary cross-entropy with a negative of its own for each position, as in SASRec.

    Arguments as in :func:`gbce_loss`; position ``i`` takes negative ``i``, or none where that is
    its positive.
    """
    own = _positive_scores(states, positive, vectors, repeats)
    chosen = negatives[: len(positive)]
    other = (states * F.embedding(chosen, vectors)).sum(-1)
    if repeats is not None:
        met = torch.zeros_like(other).index_fill(0, repeats.negatives[0], 1)
        other = other + repeats.bias * met
    return (F.softplus(-own) + F.softplus(other) * (chosen != positive)).mean()


def _positive_scores(
    states: Tensor, positive: Tensor, vectors: Tensor, repeats: Repeats | None
) -> Tensor:
    own = (states * F.embedding(positive, vectors)).sum(-1)
    return own if repeats is None else own + repeats.bias * repeats.positives


class _ChunkedSoftmax(torch.autograd.Function):
    """Gradients are taken on the way forward, while a chunk's probabilities are at hand."""

    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        positive: Tensor,
        vectors: Tensor,
        negatives: Tensor,
        bias: Tensor,
        met_positives: Tensor,
        met_negatives: Tensor,
    ) -> Tensor:
        n = len(states)
        own = F.embedding(positive, vectors)
        own_scores = (states * own).sum(1) + bias * met_positives
        absent = torch.bincount(negatives, minlength=len(vectors))[positive] == 0
        others = F.embedding(negatives, vectors)
        state_gradients, other_gradients = torch.empty_like(states), torch.zeros_like(others)
        own_gradients = torch.empty_like(own_scores)
        bias_gradient = torch.zeros_like(bias)
        chunk = max(CHUNK_ROWS, CHUNK_BYTES // (4 * len(others)))
        starts = torch.arange(0, n + chunk, chunk, device=states.device)
        bounds = torch.searchsorted(met_negatives[0], starts).tolist()
        for i, start in enumerate(range(0, n, chunk)):
            rows = slice(start, start + chunk)
            row, column = met_negatives[:, bounds[i] : bounds[i + 1]]
            met = row - start, column
            scores = states[rows] @ others.T
            scores.index_put_(met, bias, accumulate=True)
            shares = scores.log_softmax(1)
            sums = scores[:, 0] - shares[:, 0]  # log of the sum of exponentials of a row
            normaliser = torch.where(absent[rows], torch.logaddexp(sums, own_scores[rows]), sums)
            own_gradients[rows] = own_scores[rows] - normaliser
            scale = (sums - normaliser).exp_().div_(n)[:, None]
            shares.exp_()
            bias_gradient += (shares[met] * scale[met[0], 0]).sum()
            torch.mm(shares, others, out=state_gradients[rows]).mul_(scale)
            other_gradients.addmm_(shares.T, states[rows] * scale)
        loss = -own_gradients.mean()
        # A positive among the negatives has its share in the products above already.
        own_gradients.exp_().mul_(absent).sub_(1).div_(n)
        bias_gradient += own_gradients @ met_positives.to(own_gradients)
        state_gradients.addcmul_(own, own_gradients[:, None])
        vector_gradients = torch.zeros_like(vectors).index_add_(0, negatives, other_gradients)
        vector_gradients.index_add_(0, positive, states * own_gradients[:, None])
        ctx.save_for_backward(state_gradients, vector_gradients, bias_gradient)
        return loss

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        states, vectors, bias = (outer[0] * gradient for gradient in ctx.saved_tensors)
        return states, None, vectors, None, bias, None, None


_chunked_softmax: Callable[..., Tensor] = _ChunkedSoftmax.apply
