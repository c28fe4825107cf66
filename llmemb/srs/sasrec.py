"""SASRec (Kang and McAuley, ICDM 2018, arXiv 1808.09781): causal self-attention over a sequence of items."""

import torch
from torch import Tensor, nn

from llmemb.srs.backbone import BackboneSettings, CausalBackbone
from llmemb.srs.transformer import Block


class SASRec(CausalBackbone):
    """Learned positions, pre-norm blocks, a final norm; see :class:`Backbone` for shapes."""

    def __init__(self, settings: BackboneSettings) -> None:
        super().__init__(settings)
        self.positions = nn.Embedding(settings.max_length, settings.width)
        self.dropout = nn.Dropout(settings.dropout)
        self.blocks = nn.ModuleList(Block(settings) for _ in range(settings.blocks))
        self.norm = nn.LayerNorm(settings.width)
        nn.init.normal_(self.positions.weight, std=settings.width**-0.5)

    def forward(self, vectors: Tensor, lengths: Tensor) -> Tensor:
        """See :class:`CausalBackbone`; padding is on the right, so the causal mask hides it too."""
        steps = torch.arange(vectors.shape[1], device=vectors.device)
        x = self.dropout(vectors * self.settings.width**0.5 + self.positions(steps))
        for block in self.blocks:
            x = block(x)
        normed: Tensor = self.norm(x)
        return normed
