"""Texts as a tree: tokens that they begin with alike are there once, and are computed once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

from llmemb.forward import length_batches

Ids = Sequence[int]


@dataclass(frozen=True)
class TextTree:
    """Texts in order of their tokens, each behind the one it shares most with.

    A row is a token in its place; those of an opening that was computed before come first.

    Attributes:
        opening: how many tokens of it there are.
        ids: the tokens to compute, in rows after the opening's.
        positions: of those tokens in their texts.
        paths: of each text, the rows of its tokens, in the order in which the texts were given.
        own: how many of those at the path's end no text before it has.
    """

    opening: int
    ids: list[int]
    positions: list[int]
    paths: list[list[int]]
    own: list[int]

    @classmethod
    def of(cls, texts: Sequence[Ids], opening: int = 0) -> "TextTree":
        """Return the tree of texts, whose first so many tokens are the opening's."""
        ids: list[int] = []
        positions: list[int] = []
        paths: list[list[int]] = [[] for _ in texts]
        own = [0] * len(texts)
        before: Ids = ()
        path = list(range(opening))
        for i in _in_order(texts):
            shared = max(opening, _shared(before, texts[i]))
            own[i] = len(texts[i]) - shared
            path = path[:shared] + list(range(opening + len(ids), opening + len(ids) + own[i]))
            ids += texts[i][shared:]
            positions += range(shared, len(texts[i]))
            paths[i], before = path, texts[i]
        return cls(opening, ids, positions, paths, own)

    def groups(self, tokens: int) -> Iterator[list[int]]:
        """Yield texts that have about as many tokens of their own, so many in a group, padded."""
        texts = [i for i, own in enumerate(self.own) if own]
        for group in length_batches([self.own[i] for i in texts], tokens):
            yield [texts[i] for i in group]


def tree_batches(texts: Sequence[Ids], tokens: int) -> Iterator[list[int]]:
    """Yield the texts in batches of about so many tokens to compute; in each, those that begin alike."""
    batch: list[int] = []
    total = 0
    for i in _in_order(texts):
        total += len(texts[i]) - (_shared(texts[batch[-1]], texts[i]) if batch else 0)
        batch.append(i)
        if total >= tokens:
            yield batch
            batch, total = [], 0
    if batch:
        yield batch


def _in_order(texts: Sequence[Ids]) -> list[int]:
    """Return which text comes when: texts that begin alike are neighbours."""
    return sorted(range(len(texts)), key=lambda i: list(texts[i]))


def _shared(a: Ids, b: Ids) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))
