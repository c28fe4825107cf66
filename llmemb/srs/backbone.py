"""The interface of every backbone, its settings, and the one place that builds one by its name."""

from typing import Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from llmemb.srs.packing import Packing

BackboneName = Literal["sasrec", "gru4rec", "bert4rec"]


class BackboneSettings(BaseModel):
    """Shape of a backbone; kept in the bundle as ``srs/config.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: BackboneName = "sasrec"
    width: int = Field(default=64, ge=1, le=8192)  # of item and user vectors
    blocks: int = Field(default=2, ge=1, le=128)  # transformer blocks or GRU layers
    heads: int = Field(default=1, ge=1)  # of attention; a GRU has none
    dropout: float = Field(default=0.2, ge=0, lt=1)
    max_length: int = Field(
        default=50, ge=1, le=100_000
    )  # a longer sequence keeps its most recent items
    unit_items: bool = False  # item vectors are scaled to length 1: none is favoured by its norm
    repeat_bias: bool = False  # learn how much (un)likelier an item is that the sequence holds

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of {self.heads} heads")
        return self


class Backbone(nn.Module):
    """A sequence of item vectors in, user vectors out.

    Sequences are padded on the right: position 0 is the oldest item, and what stands after a
    sequence's length may be anything finite, because nothing reads it. Item vectors have a norm of
    about 1 and are scaled by the root of the width first.
    """

    def __init__(self, settings: BackboneSettings) -> None:
        super().__init__()
        self.settings = settings
        # Added to the score of an item that the sequence holds already.
        self.repeat_bias = nn.Parameter(torch.zeros(()), requires_grad=settings.repeat_bias)

    def item_space(self, vectors: Tensor) -> Tensor:
        """Return float ``[items, width]`` item vectors as they are read and scored here."""
        return F.normalize(vectors, dim=-1) if self.settings.unit_items else vectors

    def user_vectors(self, vectors: Tensor, lengths: Tensor) -> Tensor:
        """Return each sequence's user vector, whose product with an item vector is its score.

        Args:
            vectors: float ``[batch, length, width]`` item vectors, ``length <= max_length``.
            lengths: int64 ``[batch]``, each at least 1.

        Returns:
            float ``[batch, width]``.
        """
        raise NotImplementedError

    def training_states(self, vectors: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return user vectors that are trained to predict items of the sequences themselves.

        Args:
            vectors: float ``[batch, length, width]``, ``length <= max_length + 1``.
            lengths: int64 ``[batch]``, each at least 2.

        Returns:
            bool ``[batch, length]``, which items are predicted, and float ``[predicted, width]``, a
            user vector for each of them in row-major order, made without looking at that item.
        """
        raise NotImplementedError

    def read_in_training(self, predicted: Tensor, lengths: Tensor) -> Tensor:
        """Return which items of its sequence each of those user vectors has read.

        Args:
            predicted: bool ``[batch, length]``, from :meth:`training_states`.
            lengths: int64 ``[batch]``, as given there.

        Returns:
            bool ``[predicted, length]``.
        """
        raise NotImplementedError


class CausalBackbone(Backbone):
    """A backbone that reads from left to right and predicts at each position the next item."""

    def forward(self, vectors: Tensor, packing: Packing) -> Tensor:
        """Return the user vector after each position, float ``[positions, width]``.

        A position has seen the items of its sequence up to its own and no later one.

        Args:
            vectors: float ``[batch, length, width]`` item vectors.
            packing: of the sequences, none longer than ``max_length``.
        """
        raise NotImplementedError

    def user_vectors(self, vectors: Tensor, lengths: Tensor) -> Tensor:
        """See :meth:`Backbone.user_vectors`: the state after the last item."""
        packing = Packing(lengths)
        last: Tensor = self(vectors, packing).index_select(0, packing.last)
        return last

    def training_states(self, vectors: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`Backbone.training_states`: every item but the first, from those before it."""
        predicted = torch.arange(vectors.shape[1], device=lengths.device) < lengths[:, None]
        predicted[:, 0] = False
        return predicted, self(vectors, Packing(lengths - 1))

    def read_in_training(self, predicted: Tensor, lengths: Tensor) -> Tensor:
        """See :meth:`Backbone.read_in_training`: all that stand before the predicted item."""
        steps = torch.arange(predicted.shape[1], device=lengths.device)
        return steps < predicted.nonzero()[:, 1:]


def build_backbone(settings: BackboneSettings) -> Backbone:
    """Return a freshly initialised backbone."""
    from llmemb.srs.bert4rec import BERT4Rec
    from llmemb.srs.gru4rec import GRU4Rec
    from llmemb.srs.sasrec import SASRec

    backbones: dict[str, type[SASRec | GRU4Rec | BERT4Rec]] = {
        "sasrec": SASRec,
        "gru4rec": GRU4Rec,
        "bert4rec": BERT4Rec,
    }
    return backbones[settings.name](settings)
