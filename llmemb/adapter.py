"""Projected LLM vectors to item vectors in the SRS space; the piece that RAT trains beside the SRS."""

from itertools import pairwise
from typing import Any, Self

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F


class AdapterSettings(BaseModel):
    """Shape of an adapter."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    inputs: int = Field(ge=1, le=65_536)  # width of the projected vectors
    hidden: int | None = Field(default=None, ge=1, le=65_536)  # None: one linear layer
    experts: int = Field(default=1, ge=1, le=256)  # more than one: a mixture of such adapters
    outputs: int = Field(ge=1, le=65_536)  # width of the SRS


class Adapter(nn.Module):
    """One linear layer, or two with no activation between as in the LLMEmb release.

    Several experts are mixed by a softmax gate over the input (UniSRec, KDD 2022, arXiv 2206.05941).
    Maps float ``[..., inputs]`` to float ``[..., outputs]``.
    """

    def __init__(self, settings: AdapterSettings) -> None:
        super().__init__()
        self.settings = settings
        self.experts = nn.ModuleList(_linear_layers(settings) for _ in range(settings.experts))
        self.gate = nn.Linear(settings.inputs, settings.experts) if settings.experts > 1 else None

    def forward(self, projected: Tensor) -> Tensor:
        """Return item vectors in the SRS space."""
        if self.gate is None:
            return self._adapted(self.experts[0], projected)
        weights = self.gate(projected).softmax(-1)
        parts = [
            weights[..., i, None] * self._adapted(expert, projected)
            for i, expert in enumerate(self.experts)
        ]
        mixed: Tensor = sum(parts[1:], parts[0])
        return mixed

    def _adapted(self, layers: Any, projected: Tensor) -> Tensor:
        if self.training and self.settings.hidden:
            # A training batch has more items than the SRS has dimensions: one product for all of them.
            first, last = layers
            bias = F.linear(first.bias, last.weight, last.bias)
            return F.linear(projected, last.weight @ first.weight, bias)
        adapted: Tensor = layers(projected)
        return adapted

    @classmethod
    def rebuild(cls, settings: AdapterSettings, tensors: dict[str, Tensor]) -> Self:
        """Return a trained adapter in inference mode."""
        adapter = cls(settings)
        adapter.load_state_dict(tensors)
        return adapter.eval().requires_grad_(False)


def _linear_layers(settings: AdapterSettings) -> nn.Sequential:
    widths = [settings.inputs, *([settings.hidden] if settings.hidden else []), settings.outputs]
    layers = [nn.Linear(a, b) for a, b in pairwise(widths)]
    # Inputs have unit variance in each direction: outputs start at the scale of ID embeddings.
    for layer in layers:
        nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
        nn.init.zeros_(layer.bias)
    with torch.no_grad():
        layers[-1].weight.mul_(settings.outputs**-0.5)
    return nn.Sequential(*layers)
