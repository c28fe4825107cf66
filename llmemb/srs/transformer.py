"""The pre-norm transformer block that SASRec and BERT4Rec share."""

from torch import Tensor, nn
from torch.nn import functional as F

from llmemb.srs.backbone import BackboneSettings


class Block(nn.Module):
    """Self-attention, then a position-wise feed-forward layer, each with a residual."""

    def __init__(self, settings: BackboneSettings) -> None:
        super().__init__()
        width = settings.width
        self.heads = settings.heads
        self.p = settings.dropout
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.ff = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(self.p)

    def forward(self, x: Tensor, readable: Tensor | None = None) -> Tensor:
        """Map float ``[batch, length, width]`` to the same shape.

        Args:
            x: one state a position.
            readable: bool ``[batch, length]``, the positions that every position reads; ``None``:
                each reads itself and those before it (the causal mask).
        """
        batch, length, width = x.shape
        qkv = self.qkv(self.norm1(x)).view(batch, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        read = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=None if readable is None else readable[:, None, None, :],
            is_causal=readable is None,
            dropout_p=self.p if self.training else 0.0,
        )
        x = x + self.dropout(self.out(read.transpose(1, 2).reshape(batch, length, width)))
        added: Tensor = x + self.dropout(self.ff(self.norm2(x)))
        return added
