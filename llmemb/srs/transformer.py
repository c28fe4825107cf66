"""The pre-norm transformer block that SASRec and BERT4Rec share."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llmemb.dropout import Dropout
from llmemb.srs.backbone import BackboneSettings
from llmemb.srs.packing import Packing


class Block(nn.Module):
    """Self-attention, then a position-wise feed-forward layer, each with a residual.

    Args:
        settings: the shape.
        causal: a position reads itself and those before it; else all of its sequence.
    """

    def __init__(self, settings: BackboneSettings, *, causal: bool) -> None:
        super().__init__()
        width = settings.width
        self.heads = settings.heads
        self.causal = causal
        self.p = settings.dropout
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.ff = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = Dropout(self.p)

    def forward(self, x: Tensor, packing: Packing) -> Tensor:
        """Map float ``[positions, width]``, one state a position, to the same shape."""
        x = x + self.dropout(self.out(self._read(self.qkv(self.norm1(x)), packing)))
        added: Tensor = x + self.dropout(self.ff(self.norm2(x)))
        return added

    def _read(self, qkv: Tensor, packing: Packing) -> Tensor:
        """Return what each position reads, float ``[positions, width]``."""
        found = []
        for rows, real in packing.groups:
            padded = qkv if packing.even else qkv.index_select(0, rows.flatten())
            q, k, v = padded.view(*rows.shape, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
            read = F.scaled_dot_product_attention(
                q,
                k,
                v,
                attn_mask=None if self.causal else real[:, None, None, :],
                is_causal=self.causal,  # which hides padding too: it is on the right
                dropout_p=self.p if self.training else 0.0,
            )
            found.append(read.transpose(1, 2).flatten(2).flatten(0, 1))
        return found[0] if packing.even else torch.cat(found).index_select(0, packing.back)
