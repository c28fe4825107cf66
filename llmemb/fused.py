"""A Llama's forward pass on a CPU, for texts that begin alike: the same numbers with less work.

transformers' own forward pass spends about a third of its time outside matrix products, computes padding,
and computes anew for each prompt what it shares with others. Here texts are a tree whose tokens stand in
one table, each once and without padding, and the keys and values of the opening that most prompts share
are kept for good. Weights are packed for oneDNN once, the activation rides on a matrix product, norms are
folded into the weights behind them. What layers add up to stays in float32: rounded to bfloat16 after each
of them, it would be off by more than all matrix products together.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from llmemb.device import best_dtype
from llmemb.forward import Pooling
from llmemb.text_tree import TextTree, tree_batches
from llmemb.tree_attention import TreeAttention

ROWS = 512  # tokens in one matrix product; what a core's cache holds of a layer's activations
BATCH_TOKENS = 4096  # eight products share the way of a layer's weights into the cache

# oneDNN, and PyTorch's way to it, keep code for each size of product; here sizes are ever other ones, and
# a thousand kept would take a gigabyte. Enough for one pass; read when they make the first product.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")
os.environ.setdefault("LRU_CACHE_CAPACITY", "64")

_OPS = torch.ops.mkldnn  # what torch.compile uses on CPUs


@dataclass(frozen=True)
class _Layer:
    """Packed weights of one layer; those behind a norm hold that norm's scale."""

    qkv: Tensor
    out: Tensor
    gate: Tensor
    up: Tensor
    down: Tensor


@dataclass(frozen=True)
class _Opening:
    """What the model makes of the tokens that texts begin with.

    Attributes:
        ids: the tokens.
        tables: of each layer, see :class:`TreeAttention`.
        last: float32 ``[tokens, llm]``, the last hidden states.
    """

    ids: list[int]
    tables: list[Tensor]
    last: Tensor


class FusedLlama:
    """The forward pass of a :class:`transformers.LlamaModel`, whose weights it takes."""

    name = "fused"

    def __init__(self, model: Any, opening: Sequence[int] = ()) -> None:
        """Pack the weights of a model in its final dtype, on the CPU.

        Args:
            model: see :meth:`fits`.
            opening: token ids that most texts begin with.
        """
        config = model.config
        self._heads: int = config.num_attention_heads
        self._key_heads: int = config.num_key_value_heads
        self._head: int = model.layers[0].self_attn.head_dim
        self._epsilon: float = config.rms_norm_eps
        self._embedding: Tensor = model.embed_tokens.weight.detach()
        self._norm: Tensor = model.norm.weight.detach().float()
        self._layers = [self._packed(layer) for layer in model.layers]
        positions = torch.arange(config.max_position_embeddings)[None]
        cos, sin = model.rotary_emb(self._embedding, positions)
        self._rotary = torch.complex(cos.float(), sin.float())[0, :, None, : self._head // 2]
        self._opening: _Opening | None = None
        if opening:
            tables: list[Tensor] = []
            last = self._run(TextTree.of([opening]), None, tables)
            self._opening = _Opening(list(opening), tables, last)

    @staticmethod
    def fits(model: Any, device: torch.device) -> bool:
        """Return whether this class computes what that model does, on that device."""
        config = model.config
        return (
            device.type == "cpu"
            and type(model).__name__ == "LlamaModel"
            and torch._C._has_mkldnn
            and model.dtype in (torch.float32, best_dtype(device))
            and config.hidden_act == "silu"
            and not config.attention_bias
            and not config.mlp_bias
            and model.rotary_emb.rope_type in ("default", "linear", "llama3")
        )

    def batches(self, texts: Sequence[Sequence[int]]) -> Iterator[list[int]]:
        """Return which texts to compute together so that all are done soonest."""
        return tree_batches(texts, BATCH_TOKENS)

    @torch.inference_mode()
    def pooled(self, batch: Sequence[Sequence[int]], pooling: Pooling) -> Tensor:
        """Return a vector a text, float32 ``[batch, llm]``.

        Args:
            batch: token ids of each text, at least one.
            pooling: ``mean`` over the tokens, or the ``last`` one (``eos``: which the caller appended).
        """
        opening = self._opening
        if not all(opening and _begins(ids, opening.ids) for ids in batch):
            opening = None
        tree = TextTree.of(batch, len(opening.ids) if opening else 0)
        last = self._run(tree, opening)
        if pooling != "mean":
            return last[[path[-1] for path in tree.paths]]
        rows = torch.tensor(list(chain.from_iterable(tree.paths)))
        starts = torch.tensor([0, *accumulate(map(len, tree.paths))])[:-1]
        return F.embedding_bag(rows, last, starts, mode="mean")

    @torch.inference_mode()
    def _run(
        self, tree: TextTree, opening: _Opening | None, kept: list[Tensor] | None = None
    ) -> Tensor:
        """Return the last hidden states of a tree's rows, float32 ``[rows, llm]``.

        Args:
            tree: the texts.
            opening: what its first rows are.
            kept: takes the table of each layer, where they are wanted.
        """
        exact = opening is None
        embedded = F.embedding(torch.tensor(tree.ids), self._embedding).float()
        states = torch.split(embedded, ROWS)
        rotary = torch.split(self._rotary[torch.tensor(tree.positions)], ROWS)
        attention = TreeAttention(
            tree, heads=self._heads, key_heads=self._key_heads, dtype=self._embedding.dtype
        )
        width = self._heads + 2 * self._key_heads
        table = self._embedding.new_empty(tree.opening + len(tree.ids), width, self._head)
        parts = torch.split(table[tree.opening :], ROWS)
        for i in range(len(self._layers)):
            if opening:
                table[: tree.opening] = opening.tables[i]
            for rows, turn, part in zip(states, rotary, parts, strict=True):
                self._turned(self._qkv(i, rows, exact), turn, part)
            if kept is not None:
                kept.append(table.clone())
            read = torch.split(attention.read(table), ROWS)
            states = tuple(
                self._after(i, rows, found, exact) for rows, found in zip(states, read, strict=True)
            )
        last = [self._inverse_norm(rows) * rows * self._norm for rows in states]
        return torch.cat([opening.last, *last] if opening else last)

    def _qkv(self, i: int, states: Tensor, exact: bool) -> Tensor:
        """Return the queries, keys and values of tokens, float ``[tokens, heads x head]``.

        ``states`` are float32 here and below.
        """
        return _product(self._normed(states), self._layers[i].qkv)

    def _after(self, i: int, states: Tensor, read: Tensor, exact: bool) -> Tensor:
        """Return states after a layer, from those before it and what its attention read."""
        layer = self._layers[i]
        states = states + _product(read, layer.out)
        normed = self._normed(states)
        gated = _product(normed, layer.up, "mul", _product(normed, layer.gate, "swish"))
        return states.add_(_product(gated, layer.down))

    def _turned(self, qkv: Tensor, rotary: Tensor, into: Tensor) -> None:
        """Apply rotary positions to queries and keys (Su et al., arXiv 2104.09864).

        The two dimensions that turn together are neighbours, see :func:`folded_weights`.
        """
        qkv = qkv.view(into.shape)
        turning = self._heads + self._key_heads
        pairs = torch.view_as_complex(
            qkv[:, :turning].float().view(-1, turning, self._head // 2, 2)
        )
        into[:, :turning] = torch.view_as_real(pairs * rotary).flatten(-2)
        into[:, turning:] = qkv[:, turning:]

    def _normed(self, states: Tensor) -> Tensor:
        """Return states divided by their root mean square, in the dtype of the weights that follow.

        The norm's own scale is in those weights.
        """
        return (states * self._inverse_norm(states)).to(self._embedding.dtype)

    def _inverse_norm(self, states: Tensor) -> Tensor:
        """Return 1 over the root mean square of each token's state, float32 ``[tokens, 1]``."""
        norm: Tensor = torch.linalg.vector_norm(states, dim=-1, keepdim=True, dtype=torch.float32)
        return norm.square_().div_(states.shape[-1]).add_(self._epsilon).rsqrt_()

    def _packed(self, layer: Any) -> _Layer:
        return _Layer(*(_pack(weight, self._embedding.dtype) for weight in folded_weights(layer)))


def _begins(ids: Sequence[int], opening: Sequence[int]) -> bool:
    return len(ids) > len(opening) and list(ids[: len(opening)]) == opening


def folded_weights(layer: Any) -> Iterator[Tensor]:
    """Yield the weights of a layer, float32 ``[out, in]``, in the order of :class:`_Layer`.

    The scales of norms, and of the scores, are in the weights behind them. Of queries and keys, the
    dimensions ``i`` and ``i + head / 2``, which rotary positions turn together, are brought together:
    their products stay the same.
    """
    attention, mlp = layer.self_attn, layer.mlp
    before = layer.input_layernorm.weight.detach().float()
    between = layer.post_attention_layernorm.weight.detach().float()
    half = attention.head_dim // 2
    query, key = (
        weight.detach().float().unflatten(0, (-1, 2, half)).transpose(1, 2).flatten(0, 2)
        for weight in (attention.q_proj.weight, attention.k_proj.weight)
    )
    value = attention.v_proj.weight.detach()
    yield torch.cat([query * attention.scaling, key, value]) * before
    yield attention.o_proj.weight.detach().float()
    yield mlp.gate_proj.weight.detach() * between
    yield mlp.up_proj.weight.detach() * between
    yield mlp.down_proj.weight.detach().float()


def _pack(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a weight ``[out, in]`` in that format and in oneDNN's own layout."""
    packed: Tensor = _OPS._reorder_linear_weight(weight.to(dtype).contiguous(), None)
    return packed


def _product(x: Tensor, weight: Tensor, then: str = "none", other: Tensor | None = None) -> Tensor:
    """Return ``x @ weight.T``, activated, or multiplied with ``other``, then rounded."""
    found: Tensor
    if other is None:
        found = _OPS._linear_pointwise(x, weight, None, then, [], "")
    else:
        found = _OPS._linear_pointwise.binary(x, other, weight, None, then)
    return found
