"""Batches of token ids through a transformers model: padding, pooling, batches of like length."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

Pooling = Literal["mean", "last", "eos"]

BATCH_TOKENS = 512  # padded; on 2 CPU cores larger batches were slower (cache)


class TransformersForward:
    """The forward pass of any model that transformers has, over padded batches of like length."""

    name = "transformers"

    def __init__(self, model: Any, pad_id: int) -> None:
        """Take a headless model in its final dtype, on its device."""
        self._model = model
        self._pad_id = pad_id
        # The LLM's own cache serves generation: an encoder would only pay for filling it.
        self._cache = {"use_cache": False} if hasattr(model.config, "use_cache") else {}

    def batches(self, texts: Sequence[Sequence[int]]) -> Iterable[list[int]]:
        """Return which texts to compute together so that all are done soonest."""
        return length_batches([len(ids) for ids in texts], BATCH_TOKENS)

    @torch.inference_mode()
    def pooled(self, batch: Sequence[Sequence[int]], pooling: Pooling) -> Tensor:
        """Return a vector a text, float32 ``[batch, llm]``, on the model's device.

        Args:
            batch: token ids of each text, at least one.
            pooling: see :func:`pool`.
        """
        vectors = torch.empty(len(batch), self._model.config.hidden_size, device=self._model.device)
        for rows in self.batches(batch):
            inputs = pad([batch[row] for row in rows], self._pad_id)
            inputs = {name: tensor.to(self._model.device) for name, tensor in inputs.items()}
            hidden = self._model(**inputs, **self._cache).last_hidden_state
            vectors[rows] = pool(hidden, inputs["attention_mask"], pooling)
        return vectors


def pool(hidden: Tensor, mask: Tensor, pooling: Pooling) -> Tensor:
    """Reduce token states to one vector an item, whichever side the padding is on.

    Args:
        hidden: float ``[batch, tokens, llm]``.
        mask: int64 ``[batch, tokens]``, 1 for a token and 0 for padding.
        pooling: ``mean`` over the tokens; ``last`` and ``eos`` the last token that is not padding.

    Returns:
        float32 ``[batch, llm]``.
    """
    if pooling == "mean":
        weights = mask.unsqueeze(-1).float()
        return (hidden.float() * weights).sum(1) / weights.sum(1).clamp(min=1)
    last = mask.shape[1] - 1 - mask.flip(1).argmax(1)
    return hidden[torch.arange(len(hidden), device=hidden.device), last].float()


def pad(batch: Sequence[Sequence[int]], pad_id: int) -> dict[str, Tensor]:
    """Pad on the right; int64 ``input_ids`` and ``attention_mask``, both ``[batch, tokens]``."""
    longest = max(len(ids) for ids in batch)
    ids = torch.full((len(batch), longest), pad_id)
    mask = torch.zeros(len(batch), longest, dtype=torch.int64)
    for row, tokens in enumerate(batch):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        mask[row, : len(tokens)] = 1
    return {"input_ids": ids, "attention_mask": mask}


def length_batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Group indices by length, longest first, each group within ``budget`` padded tokens."""
    batches: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batches and lengths[batches[-1][0]] * (len(batches[-1]) + 1) <= budget:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches
