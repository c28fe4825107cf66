"""GRU4Rec (Hidasi et al., ICLR 2016, arXiv 1511.06939): a gated recurrent network over a sequence."""

from torch import Tensor, nn

from llmemb.dropout import Dropout
from llmemb.srs.backbone import BackboneSettings, CausalBackbone
from llmemb.srs.packing import Packing


class GRU4Rec(CausalBackbone):
    """GRU layers, then a projection to the item space; see :class:`Backbone` for shapes."""

    def __init__(self, settings: BackboneSettings) -> None:
        super().__init__(settings)
        width = settings.width
        self.dropout = Dropout(settings.dropout)
        between = settings.dropout if settings.blocks > 1 else 0.0
        self.gru = nn.GRU(width, width, settings.blocks, batch_first=True, dropout=between)
        self.out = nn.Linear(width, width)

    def forward(self, vectors: Tensor, packing: Packing) -> Tensor:
        """See :class:`CausalBackbone`; what follows a sequence's end never reaches its states."""
        longest = int(packing.lengths.max())
        states, _ = self.gru(self.dropout(vectors[:, :longest] * self.settings.width**0.5))
        user: Tensor = self.out(self.dropout(packing.pack(states)))
        return user
