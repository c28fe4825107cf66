"""The fused forward pass with 8-bit matrix products: faster on CPUs that have VNNI, and less exact.

Weights have a scale for each output, activations one for each token, so that a vector does not depend
on its batch. What 8 bits do not hold stays in the model's dtype: the attention, the first and the last
layer, and the opening of the prompts, whose first token is far larger than others in an LLM.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from llmemb.fused import FusedLlama, folded_weights

_ZERO = 128  # oneDNN's fast products take activations without sign: this value stands for 0
_TINY = 1e-12


@dataclass(frozen=True)
class _Weight:
    """A weight in 8 bits.

    Attributes:
        packed: in oneDNN's own layout.
        scales: float32 ``[out]``.
        zeros: int64 ``[out]``, all 0.
    """

    packed: Tensor
    scales: Tensor
    zeros: Tensor


@dataclass(frozen=True)
class _Layer:
    """Weights of one layer, see :func:`llmemb.fused.folded_weights`; gate and up are one."""

    qkv: _Weight
    out: _Weight
    gate_up: _Weight
    down: _Weight


class Int8Llama(FusedLlama):
    """A :class:`FusedLlama` whose matrix products are of 8-bit integers.

    Texts that do not begin with the opening go through the exact pass.
    """

    name = "fused int8"

    def __init__(self, model: Any, opening: Sequence[int]) -> None:
        """Pack the weights twice: in the model's dtype, and in 8 bits."""
        super().__init__(model, opening)
        # Memory that is used again and again: new one costs more than the sums in it.
        self._scratch = torch.empty(0)
        self._int8 = {
            i: _quantised_layer(layer)
            for i, layer in enumerate(model.layers)
            if 0 < i < len(model.layers) - 1
        }

    @staticmethod
    def fits(model: Any, device: torch.device) -> bool:
        """Return whether this class computes what that model does, on that device."""
        return FusedLlama.fits(model, device) and torch.cpu._is_vnni_supported()

    def _qkv(self, i: int, states: Tensor, exact: bool) -> Tensor:
        if exact or i not in self._int8:
            return super()._qkv(i, states, exact)
        tokens, scale = self._quantised(states)
        return _product(tokens, self._int8[i].qkv).mul_(scale * self._inverse_norm(states))

    def _after(self, i: int, states: Tensor, read: Tensor, exact: bool) -> Tensor:
        if exact or i not in self._int8:
            return super()._after(i, states, read, exact)
        layer = self._int8[i]
        tokens, scale = self._quantised(read.float())
        states = torch.addcmul(states, _product(tokens, layer.out), scale)
        tokens, scale = self._quantised(states)
        scale = scale * self._inverse_norm(states)
        gate, up = _product(tokens, layer.gate_up).chunk(2, dim=-1)
        gated = F.silu(gate.mul_(scale), inplace=True).mul_(up)  # up's scale is applied at the end
        tokens, own = self._quantised(gated)
        return torch.addcmul(states, _product(tokens, layer.down), own * scale)

    def _quantised(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return rows as uint8 around 128 and the scale of each, float32 ``[rows, 1]``."""
        if self._scratch.numel() < rows.numel():
            self._scratch = torch.empty(rows.numel())
        scaled = self._scratch[: rows.numel()].view_as(rows)
        scales = torch.abs(rows, out=scaled).amax(-1, keepdim=True).clamp_(min=_TINY).div_(127)
        torch.mul(rows, scales.reciprocal(), out=scaled).round_()
        # To signed bytes and from there by flipping a bit: a direct conversion is four times as slow.
        return scaled.to(torch.int8).view(torch.uint8).bitwise_xor_(_ZERO), scales


def _quantised_layer(layer: Any) -> _Layer:
    qkv, out, gate, up, down = folded_weights(layer)
    return _Layer(*map(_quantised_weight, (qkv, out, torch.cat([gate, up]), down)))


def _quantised_weight(weight: Tensor) -> _Weight:
    scales = weight.abs().amax(1).clamp_(min=_TINY).div_(127)
    rounded = (weight / scales[:, None]).round_().to(torch.int8)
    packed = torch.ops.onednn.qlinear_prepack(rounded, None)
    return _Weight(packed, scales, torch.zeros(len(scales), dtype=torch.int64))


def _product(tokens: Tensor, weight: _Weight) -> Tensor:
    """Return the product, float32; the scales of the tokens are still to be applied."""
    found: Tensor = torch.ops.onednn.qlinear_pointwise(
        tokens, 1.0, _ZERO, weight.packed, weight.scales, weight.zeros, None,
        1.0, 0, torch.float32, "none", [], "",
    )  # fmt: skip
    return found
