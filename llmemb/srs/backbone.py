"""The interface of every backbone, its settings, and the one place that builds one by its name."""

from typing import Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

BackboneName = Literal["sasrec"]


class BackboneSettings(BaseModel):
    """Shape of a backbone; kept in the bundle as ``srs/config.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: BackboneName = "sasrec"
    width: int = Field(default=64, ge=1)  # of item and user vectors
    blocks: int = Field(default=2, ge=1)
    heads: int = Field(default=1, ge=1)
    dropout: float = Field(default=0.2, ge=0, lt=1)
    max_length: int = Field(default=50, ge=1)  # a longer sequence keeps its most recent items

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of {self.heads} heads")
        return self


class Backbone(nn.Module):
    """A sequence of item vectors in, user vectors out.

    Sequences are padded on the right: position 0 is the oldest item, and what stands after a
    sequence's length may be anything finite, because nothing reads it.
    """

    settings: BackboneSettings

    def forward(self, vectors: Tensor, lengths: Tensor) -> Tensor:
        """Return the user vector after each position.

        Args:
            vectors: float ``[batch, length, width]`` item vectors, ``length <= max_length``.
            lengths: int64 ``[batch]``, each at least 1.

        Returns:
            float ``[batch, length, width]``; position ``t`` has seen items ``0..t`` and no later one.
        """
        raise NotImplementedError

    def user_vectors(self, vectors: Tensor, lengths: Tensor) -> Tensor:
        """Return each sequence's user vector, float ``[batch, width]``; arguments as above."""
        states = self(vectors, lengths)
        last: Tensor = states[torch.arange(len(lengths), device=lengths.device), lengths - 1]
        return last


def build_backbone(settings: BackboneSettings) -> Backbone:
    """Return a freshly initialised backbone."""
    from llmemb.srs.sasrec import SASRec

    return {"sasrec": SASRec}[settings.name](settings)
