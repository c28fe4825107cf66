"""SASRec (Kang and McAuley, ICDM 2018, arXiv 1808.09781): causal self-attention over a sequence of items."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llmemb.srs.backbone import Backbone, BackboneSettings


class SASRec(Backbone):
    """Learned positions, pre-norm blocks, a final norm; see :class:`Backbone` for shapes."""

    def __init__(self, settings: BackboneSettings) -> None:
        super().__init__()
        self.settings = settings
        self.positions = nn.Embedding(settings.max_length, settings.width)
        self.dropout = nn.Dropout(settings.dropout)
        self.blocks = nn.ModuleList(Block(settings) for _ in range(settings.blocks))
        self.norm = nn.LayerNorm(settings.width)
        nn.init.normal_(self.positions.weight, std=settings.width**-0.5)

    def forward(self, vectors: Tensor, lengths: Tensor) -> Tensor:
        """See :meth:`Backbone.forward`; padding is on the right, so the causal mask hides it too."""
        steps = torch.arange(vectors.shape[1], device=vectors.device)
        # Item vectors are small (norm about 1): bring each coordinate to the scale of the norms.
        x = self.dropout(vectors * self.settings.width**0.5 + self.positions(steps))
        for block in self.blocks:
            x = block(x)
        normed: Tensor = self.norm(x)
        return normed


class Block(nn.Module):
    """Causal self-attention, then a position-wise feed-forward layer, each with a residual."""

    def __init__(self, settings: BackboneSettings) -> None:
        super().__init__()
        width = settings.width
        self.heads = settings.heads
        self.p = settings.dropout
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.ff = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Dropout(self.p), nn.Linear(4 * width, width)
        )
        self.dropout = nn.Dropout(self.p)

    def forward(self, x: Tensor) -> Tensor:
        """Map float ``[batch, length, width]`` to the same shape."""
        batch, length, width = x.shape
        qkv = self.qkv(self.norm1(x)).view(batch, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        p = self.p if self.training else 0.0
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=p)
        x = x + self.dropout(self.out(seen.transpose(1, 2).reshape(batch, length, width)))
        added: Tensor = x + self.dropout(self.ff(self.norm2(x)))
        return added
