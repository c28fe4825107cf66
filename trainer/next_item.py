"""Next-item losses: over every candidate, or over negatives drawn uniformly for a whole batch.

All take scores to be products of user and item vectors. Negatives are shared by the positions of a
batch, which makes their scores one matrix product.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

CHUNK_BYTES = 64 * 1024 * 1024  # of full-softmax scores held at a time
GBCE_CALIBRATION = 0.75  # the t of gSASRec's experiments


LossName = Literal["softmax", "sampled", "gbce", "bce"]


def draw_negatives(name: LossName, candidates: Tensor, positions: int, shared: int) -> Tensor:
    """Return the items that a batch's targets are told apart from, int64 ``[negatives]``.

    Args:
        name: the loss.
        candidates: int64 ``[candidates]``, which may be drawn.
        positions: an upper bound of how many targets there are; ``bce`` draws one for each.
        shared: how many the sampled losses draw for the whole batch.
    """
    if name == "softmax":
        return candidates
    count = positions if name == "bce" else shared
    return candidates[torch.randint(len(candidates), (count,), device=candidates.device)]


def next_item_loss(
    name: LossName,
    states: Tensor,
    positive: Tensor,
    vectors: Tensor,
    negatives: Tensor,
    candidates: int,
) -> Tensor:
    """Return the loss of that name, a scalar.

    Args:
        name: ``softmax`` over all candidates; ``sampled`` softmax, ``gbce`` and ``bce`` over some.
        states: float ``[positions, width]`` user vectors.
        positive: int64 ``[positions]``, the row of ``vectors`` that each should score highest.
        vectors: float ``[items, width]`` item vectors.
        negatives: int64 ``[negatives]``, rows of ``vectors``, as :func:`draw_negatives` chose them.
        candidates: how many items they were drawn from.
    """
    if name == "softmax":
        # Candidates are ascending, and a target is one of them.
        return softmax_loss(
            states, torch.searchsorted(negatives, positive), F.embedding(negatives, vectors)
        )
    if name == "sampled":
        return sampled_softmax_loss(states, positive, vectors, negatives)
    if name == "gbce":
        return gbce_loss(states, positive, vectors, negatives, candidates)
    return bce_loss(states, positive, vectors, negatives)


def softmax_loss(states: Tensor, positive: Tensor, vectors: Tensor) -> Tensor:
    """Cross-entropy over all candidates, never holding all scores at once.

    Args:
        states: float ``[positions, width]`` user vectors.
        positive: int64 ``[positions]``, the row of ``vectors`` that each should score highest.
        vectors: float ``[candidates, width]`` item vectors.
    """
    return _chunked_softmax(states, positive, vectors)


def sampled_softmax_loss(
    states: Tensor, positive: Tensor, vectors: Tensor, negatives: Tensor
) -> Tensor:
    """Cross-entropy over the positive and the negatives; arguments as in :func:`gbce_loss`."""
    own, others = _scores(states, positive, vectors, negatives)
    scores = torch.cat([own[:, None], others], dim=1)
    return -F.log_softmax(scores, dim=1)[:, 0].mean()


def gbce_loss(
    states: Tensor, positive: Tensor, vectors: Tensor, negatives: Tensor, candidates: int
) -> Tensor:
    """Generalised binary cross-entropy (gSASRec, RecSys 2023, arXiv 2308.07192, equation 14).

    Args:
        states: float ``[positions, width]`` user vectors.
        positive: int64 ``[positions]``, rows of ``vectors``.
        vectors: float ``[items, width]`` item vectors.
        negatives: int64 ``[negatives]``, rows of ``vectors``, uniform over the candidates.
        candidates: how many those are.
    """
    own, others = _scores(states, positive, vectors, negatives)
    sampled = len(negatives) / max(1, candidates - 1)
    power = sampled * (GBCE_CALIBRATION * (1 - 1 / sampled) + 1 / sampled)
    return (power * F.softplus(-own) + F.softplus(others).sum(1)).mean()


def bce_loss(states: Tensor, positive: Tensor, vectors: Tensor, negatives: Tensor) -> Tensor:
    """Binary cross-entropy with a negative of its own for each position, as in SASRec.

    Arguments as in :func:`gbce_loss`; position ``i`` takes negative ``i``, or none where that is
    its positive.
    """
    own = (states * F.embedding(positive, vectors)).sum(-1)
    chosen = negatives[: len(positive)]
    other = (states * F.embedding(chosen, vectors)).sum(-1)
    return (F.softplus(-own) + F.softplus(other) * (chosen != positive)).mean()


def _scores(
    states: Tensor, positive: Tensor, vectors: Tensor, negatives: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the scores of positives, ``[positions]``, and negatives, ``[positions, negatives]``.

    A negative that is a position's positive scores ``-inf`` there.
    """
    own = (states * F.embedding(positive, vectors)).sum(-1)
    others = states @ F.embedding(negatives, vectors).T
    return own, others.masked_fill(negatives == positive[:, None], -torch.inf)


class _ChunkedSoftmax(torch.autograd.Function):
    """Gradients are taken on the way forward, while a chunk's probabilities are at hand."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, positive: Tensor, vectors: Tensor) -> Tensor:
        n = len(states)
        chunk = max(1, CHUNK_BYTES // (4 * len(vectors)))
        loss = states.new_zeros(())
        state_gradients, vector_gradients = torch.empty_like(states), torch.zeros_like(vectors)
        for start in range(0, n, chunk):
            rows = slice(start, start + chunk)
            scores = states[rows] @ vectors.T
            own = positive[rows, None]
            normaliser = scores.logsumexp(1, keepdim=True)
            loss += (normaliser - scores.gather(1, own)).sum() / n
            gradient = scores.sub_(normaliser).exp_().div_(n)
            gradient.scatter_add_(1, own, gradient.new_full(own.shape, -1 / n))
            state_gradients[rows] = gradient @ vectors
            vector_gradients.addmm_(gradient.T, states[rows])
        ctx.save_for_backward(state_gradients, vector_gradients)
        return loss

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None, Tensor]:
        state_gradients, vector_gradients = ctx.saved_tensors
        return outer[0] * state_gradients, None, outer[0] * vector_gradients


_chunked_softmax: Callable[[Tensor, Tensor, Tensor], Tensor] = _ChunkedSoftmax.apply
