"""BERT4Rec (Sun et al., CIKM 2019, arXiv 1904.06690): attention in both directions, trained by masking."""

import torch
from torch import Tensor, nn

from llmemb.dropout import Dropout
from llmemb.srs.backbone import Backbone, BackboneSettings
from llmemb.srs.packing import Packing
from llmemb.srs.transformer import Block

MASKED_SHARE = 0.3  # of the items of a training sequence


class BERT4Rec(Backbone):
    """A mask stands for each item to predict; see :class:`Backbone` for shapes."""

    def __init__(self, settings: BackboneSettings) -> None:
        super().__init__(settings)
        width = settings.width
        self.mask = nn.Parameter(torch.randn(width) * width**-0.5)
        # Counted from the end: the mask behind a sequence of any length stands at position 0.
        self.positions = nn.Embedding(settings.max_length + 1, width)
        self.dropout = Dropout(settings.dropout)
        blocks = (Block(settings, causal=False) for _ in range(settings.blocks))
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(width)
        nn.init.normal_(self.positions.weight, std=width**-0.5)

    def user_vectors(self, vectors: Tensor, lengths: Tensor) -> Tensor:
        """See :meth:`Backbone.user_vectors`: the state of a mask put behind the last item."""
        rows = torch.arange(len(lengths), device=lengths.device)
        longer = torch.cat([vectors, vectors[:, :1]], dim=1)
        masked = torch.zeros(longer.shape[:2], dtype=torch.bool, device=longer.device)
        masked[rows, lengths] = True
        packing = Packing(lengths + 1)
        return self._states(longer, masked, packing).index_select(0, packing.last)

    def training_states(self, vectors: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`Backbone.training_states`: a random share of the items, and often the last one.

        The last item is masked in half of the sequences, and wherever chance masked none: that is
        the question asked when recommending.
        """
        masked = torch.rand(vectors.shape[:2], device=vectors.device) < MASKED_SHARE
        masked &= torch.arange(vectors.shape[1], device=lengths.device) < lengths[:, None]
        last = (torch.rand(len(lengths), device=lengths.device) < 0.5) | ~masked.any(1)
        # One item at least stays to be read.
        masked[torch.arange(len(lengths), device=lengths.device), lengths - 1] |= last
        masked[:, 0] &= ~(masked.sum(1) == lengths)
        packing = Packing(lengths)
        asked = packing.pack(masked).nonzero()[:, 0]
        return masked, self._states(vectors, masked, packing).index_select(0, asked)

    def read_in_training(self, predicted: Tensor, lengths: Tensor) -> Tensor:
        """See :meth:`Backbone.read_in_training`: all that are not masked, on both sides."""
        steps = torch.arange(predicted.shape[1], device=lengths.device)
        readable = ~predicted & (steps < lengths[:, None])
        return readable[predicted.nonzero()[:, 0]]

    def _states(self, vectors: Tensor, masked: Tensor, packing: Packing) -> Tensor:
        """Return the state of each position, float ``[positions, width]``."""
        items = torch.where(packing.pack(masked)[:, None], self.mask, packing.pack(vectors))
        from_the_end = packing.lengths.repeat_interleave(packing.lengths) - 1 - packing.steps
        x = self.dropout(items * self.settings.width**0.5 + self.positions(from_the_end))
        for block in self.blocks:
            x = block(x, packing)
        normed: Tensor = self.norm(x)
        return normed
