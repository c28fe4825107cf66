"""A Llama's forward pass on a CPU, for texts that begin alike: the same numbers with less work.

transformers' own forward pass spends about a third of its time outside matrix products, and computes the
opening words of every prompt anew. Here weights are packed for oneDNN once, activation and residual ride
on the matrix products, norms are folded into the weights behind them, heads that share keys are
multiplied together, and the keys and values of the shared opening are kept.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from llmemb.forward import Pooling, length_batches, pad, pool

GROUP_TOKENS = 512  # padded; what a core's cache holds of a layer's activations

_OPS = torch.ops.mkldnn  # what torch.compile uses on CPUs


@dataclass(frozen=True)
class Layer:
    """Packed weights of one layer; those behind a norm hold that norm's scale."""

    qkv: Tensor
    out: Tensor
    gate: Tensor
    up: Tensor
    down: Tensor


@dataclass(frozen=True)
class Opening:
    """What the model makes of the tokens that texts begin with.

    Attributes:
        ids: the tokens.
        layers: keys and values of each layer, float ``[key heads, tokens, head]``.
        total: float32 ``[llm]``, the sum of their last hidden states.
    """

    ids: list[int]
    layers: list[tuple[Tensor, Tensor]]
    total: Tensor


@dataclass
class Group:
    """Texts of like length on their way through the layers.

    What follows a text's end reads from it and is read by none, so that no mask is needed for it.

    Attributes:
        states: float ``[texts x length, llm]``, after the layers so far.
        inside: int64 ``[texts, length]``, 1 for a token of the text, the opening's not among them.
        mask: float ``[heads that share keys x length, opening and length]``: 0, or what is ahead.
        rotary: of the positions, complex64 ``[texts x length, 1, head / 2]``.
        kept: the first text's keys and values, a layer each, where they are wanted.
    """

    states: Tensor
    inside: Tensor
    mask: Tensor
    rotary: Tensor
    kept: list[tuple[Tensor, Tensor]] | None = None


class FusedLlama:
    """The forward pass of a :class:`transformers.LlamaModel`, whose weights it takes."""

    name = "fused"
    batch_tokens = 4096  # padded; eight groups share the way of a layer's weights into the cache

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
        self._rotary = torch.complex(cos.float(), sin.float())[0, :, : self._head // 2].contiguous()
        self._opening: Opening | None = None
        if opening:
            group = self._group([opening], None)
            group.kept = []
            self._run([group], None)
            self._opening = Opening(list(opening), group.kept, self._last(group)[0].sum(0))

    @staticmethod
    def fits(model: Any, device: torch.device) -> bool:
        """Return whether this class computes what that model does, on that device."""
        config = model.config
        return (
            device.type == "cpu"
            and type(model).__name__ == "LlamaModel"
            and torch._C._has_mkldnn
            and config.hidden_act == "silu"
            and not config.attention_bias
            and not config.mlp_bias
            and model.rotary_emb.rope_type in ("default", "linear", "llama3")
        )

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
        skipped = len(opening.ids) if opening else 0
        rows = length_batches([len(ids) - skipped for ids in batch], GROUP_TOKENS)
        groups = [self._group([batch[i][skipped:] for i in chosen], opening) for chosen in rows]
        self._run(groups, opening)
        vectors = torch.empty(len(batch), self._norm.shape[0])
        for chosen, group in zip(rows, groups, strict=True):
            found = pool(self._last(group), group.inside, pooling)
            if opening and pooling == "mean":
                read = group.inside.sum(1, keepdim=True)
                found = (found * read + opening.total) / (read + skipped)
            vectors[chosen] = found
        return vectors

    def _group(self, texts: Sequence[Sequence[int]], opening: Opening | None) -> Group:
        start = len(opening.ids) if opening else 0
        padded = pad(texts, 0)
        tokens, length = padded["input_ids"], padded["input_ids"].shape[1]
        ahead = torch.ones(length, start + length, dtype=torch.bool).triu(start + 1)
        mask = torch.zeros(ahead.shape, dtype=self._embedding.dtype).masked_fill(ahead, -torch.inf)
        return Group(
            states=F.embedding(tokens.flatten(), self._embedding),
            inside=padded["attention_mask"],
            mask=mask.repeat(self._heads // self._key_heads, 1),
            rotary=self._rotary[start : start + length, None].repeat(len(texts), 1, 1),
        )

    @torch.inference_mode()
    def _run(self, groups: Sequence[Group], opening: Opening | None) -> None:
        # Groups go through a layer one after another, while its weights are in the cache.
        for i in range(len(self._layers)):
            for group in groups:
                self._go_through(i, group, opening)

    def _go_through(self, i: int, group: Group, opening: Opening | None) -> None:
        """Take a group through one layer."""
        layer = self._layers[i]
        qkv = product(self._normed(group.states), layer.qkv)
        read = self._attended(i, qkv, group, opening)
        states = product(read, layer.out, "add", group.states)
        normed = self._normed(states)
        gated = product(normed, layer.up, "mul", product(normed, layer.gate, "swish"))
        group.states = product(gated, layer.down, "add", states)

    def _attended(self, i: int, qkv: Tensor, group: Group, opening: Opening | None) -> Tensor:
        """Return what each token's heads read, float ``[tokens, heads x head]``."""
        batch, length = group.inside.shape
        shared = self._heads // self._key_heads
        qkv = qkv.view(batch * length, self._heads + 2 * self._key_heads, self._head)
        rotated = self._rotated(qkv[:, : self._heads + self._key_heads], group.rotary)
        rotated = rotated.view(batch, length, -1, self._head)
        queries, keys = rotated[:, :, : self._heads], rotated[:, :, self._heads :]
        values = qkv[:, self._heads + self._key_heads :].to(keys.dtype)
        values = values.view_as(keys).transpose(1, 2)
        keys = keys.transpose(1, 2)
        if opening:
            first_keys, first_values = opening.layers[i]
            keys = torch.cat([first_keys.expand(batch, -1, -1, -1), keys], dim=2)
            values = torch.cat([first_values.expand(batch, -1, -1, -1), values], dim=2)
        if group.kept is not None:
            group.kept.append((keys[0], values[0]))
        # Queries that share keys stand below one another: [batch x key heads, shared x tokens, head].
        queries = queries.view(batch, length, self._key_heads, shared, self._head)
        queries = queries.permute(0, 2, 3, 1, 4).reshape(-1, shared * length, self._head)
        keys, values = keys.flatten(0, 1), values.flatten(0, 1)
        scores = torch.baddbmm(group.mask, queries, keys.transpose(1, 2))
        shares = scores.softmax(-1, dtype=torch.float32)  # faster than in bfloat16, too
        read = (shares.to(scores.dtype) @ values).view(
            batch, self._key_heads, shared, length, self._head
        )
        return read.permute(0, 3, 1, 2, 4).reshape(batch * length, -1)

    def _last(self, group: Group) -> Tensor:
        """Return a group's last hidden states, float32 ``[texts, tokens, llm]``."""
        states = self._normed(group.states).float().mul_(self._norm)
        return states.view(*group.inside.shape, -1)

    def _normed(self, states: Tensor) -> Tensor:
        """Return states divided by their root mean square; the norm's own scale is in the weights."""
        squares = torch.linalg.vector_norm(states, dim=-1, keepdim=True, dtype=torch.float32)
        squares = squares.square_().div_(states.shape[-1]).add_(self._epsilon)
        normed: Tensor = states * squares.rsqrt_().to(states.dtype)
        return normed

    def _rotated(self, heads: Tensor, rotary: Tensor) -> Tensor:
        """Apply rotary positions to ``[tokens, heads, head]`` (Su et al., arXiv 2104.09864).

        The two dimensions that turn together are neighbours, see :func:`folded_weights`.
        """
        pairs = torch.view_as_complex(heads.float().view(*heads.shape[:-1], -1, 2))
        turned = torch.view_as_real(pairs * rotary).flatten(-2)
        return turned.to(self._embedding.dtype)

    def _packed(self, layer: Any) -> Layer:
        return Layer(*(pack(weight, self._embedding.dtype) for weight in folded_weights(layer)))


def _begins(ids: Sequence[int], opening: Sequence[int]) -> bool:
    return len(ids) > len(opening) and list(ids[: len(opening)]) == opening


def folded_weights(layer: Any) -> Iterator[Tensor]:
    """Yield the weights of a layer, float32 ``[out, in]``, in the order of :class:`Layer`.

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


def pack(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a weight ``[out, in]`` in that format and in oneDNN's own layout."""
    packed: Tensor = _OPS._reorder_linear_weight(weight.to(dtype).contiguous(), None)
    return packed


def product(x: Tensor, weight: Tensor, then: str = "none", other: Tensor | None = None) -> Tensor:
    """Return ``x @ weight.T``, activated, or added to or multiplied with ``other``, then rounded."""
    if other is None:
        product: Tensor = _OPS._linear_pointwise(x, weight, None, then, [], "")
    else:
        product = _OPS._linear_pointwise.binary(x, other, weight, None, then)
    return product
