"""SASRec (Kang and McAuley, ICDM 2018, arXiv 1808.09781): causal self-attention over a sequence of items."""

from torch import Tensor, nn

from llmemb.dropout import Dropout
from llmemb.srs.backbone import BackboneSettings, CausalBackbone
from llmemb.srs.packing import Packing
from llmemb.srs.transformer import Block


class SASRec(CausalBackbone):
    """Learned positions, pre-norm blocks, a final norm; see :class:`Backbone` for shapes."""

    def __init__(self, settings: BackboneSettings) -> None:
        super().__init__(settings)
        self.positions = nn.Embedding(settings.max_length, settings.width)
        self.dropout = Dropout(settings.dropout)
        blocks = (Block(settings, causal=True) for _ in range(settings.blocks))
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(settings.width)
        nn.init.normal_(self.positions.weight, std=settings.width**-0.5)

    def forward(self, vectors: Tensor, packing: Packing) -> Tensor:
        """See :class:`CausalBackbone`."""
        items = packing.pack(vectors) * self.settings.width**0.5
        x = self.dropout(items + self.positions(packing.steps))
        for block in self.blocks:
            x = block(x, packing)
        normed: Tensor = self.norm(x)
        return normed
