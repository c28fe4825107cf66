"""Attention over a tree of texts: a token reads what is before it on its text's path, itself included."""

from dataclasses import dataclass

import torch
from torch import Tensor

from llmemb.text_tree import TextTree

GROUP_TOKENS = 512  # padded; texts that attend in one product

_FAR = 1 << 30  # the position of padding: behind everything


@dataclass(frozen=True)
class _Group:
    """Where texts that attend in one product have their queries, keys and values.

    Attributes:
        texts: how many.
        queries: int64 ``[texts x heads x own]``, in the table; heads that share keys are neighbours.
        keys: int64 ``[texts x key heads x length]``.
        ahead: float ``[texts, 1, own, length]``: 0, or minus infinity for what a token does not read.
        answers: where in the answers of all groups those of this one are.
    """

    texts: int
    queries: Tensor
    keys: Tensor
    ahead: Tensor
    answers: slice


class TreeAttention:
    """Finds its way in a table of queries, keys and values, ``[rows, heads + 2 x key heads, head]``."""

    def __init__(self, tree: TextTree, *, heads: int, key_heads: int, dtype: torch.dtype) -> None:
        """Take the texts, and the number of heads and of those that have keys of their own."""
        self._heads = heads
        self._key_heads = key_heads
        self._dtype = dtype
        self._answers = 0
        self._answer_of = torch.empty(len(tree.ids), heads, dtype=torch.int64)
        self._groups = [self._group(tree, texts) for texts in tree.groups(GROUP_TOKENS)]

    def _group(self, tree: TextTree, texts: list[int]) -> _Group:
        heads, key_heads = self._heads, self._key_heads
        width = heads + 2 * key_heads
        lengths = torch.tensor([len(tree.paths[i]) for i in texts])[:, None]
        own = torch.tensor([tree.own[i] for i in texts])[:, None]
        key_rows = _padded([tree.paths[i] for i in texts])
        rows = _padded([tree.paths[i][-tree.own[i] :] for i in texts])
        places = torch.arange(key_rows.shape[1])
        key_places = places.where(places < lengths, _FAR)
        places = torch.arange(rows.shape[1])
        ahead = key_places[:, None, :] > (lengths - own + places)[:, :, None]
        head = torch.arange(heads)[:, None]
        key_head = torch.arange(heads, heads + key_heads)[:, None]
        queries = rows[:, None] * width + head
        # Answers come as [texts, heads, own]; each token's place among them, by its head:
        answers = torch.arange(queries.numel()).view_as(queries) + self._answers
        inside = places < own
        self._answer_of[rows[inside] - tree.opening] = answers.transpose(1, 2)[inside]
        begin, self._answers = self._answers, self._answers + queries.numel()
        return _Group(
            texts=len(texts),
            queries=queries.flatten(),
            keys=(key_rows[:, None] * width + key_head).flatten(),
            ahead=torch.zeros(ahead.shape, dtype=self._dtype).masked_fill_(ahead, -torch.inf)[
                :, None
            ],
            answers=slice(begin, self._answers),
        )

    def read(self, table: Tensor) -> Tensor:
        """Return what each token's heads read, float ``[tokens, heads x head]``; none of the opening's.

        Args:
            table: float, rows as in the tree. Queries are scaled, rotary positions applied.
        """
        head = table.shape[-1]
        flat = table.view(-1, head)
        answers = table.new_empty(self._answers, head)
        for group in self._groups:
            each = group.texts * self._key_heads
            queries = flat.index_select(0, group.queries).view(each, -1, head)
            keys = flat.index_select(0, group.keys).view(each, -1, head)
            values = flat.index_select(0, group.keys + self._key_heads).view(each, -1, head)
            scores = queries @ keys.transpose(1, 2)
            own, length = group.ahead.shape[-2:]
            scores.view(group.texts, self._heads, own, length).add_(group.ahead)
            shares = scores.softmax(-1, dtype=torch.float32)  # faster than in bfloat16, too
            found = answers[group.answers].view(each, -1, head)
            torch.bmm(shares.to(table.dtype), values, out=found)
        return answers.index_select(0, self._answer_of.flatten()).view(-1, self._heads * head)


def _padded(rows: list[list[int]]) -> Tensor:
    """Return rows as int64 ``[texts, longest]``, padded with some row."""
    longest = max(map(len, rows))
    return torch.tensor([row + [0] * (longest - len(row)) for row in rows])
