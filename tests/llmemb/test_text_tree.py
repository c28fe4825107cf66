"""Texts as a tree: nothing is lost, and what texts begin with alike is there once."""

from itertools import chain

from hypothesis import given
from hypothesis import strategies as st

from llmemb.text_tree import TextTree, tree_batches

TEXTS = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=12), max_size=30)


@given(TEXTS, st.lists(st.integers(0, 2), max_size=3))
def test_a_texts_path_spells_it(texts: list[list[int]], opening: list[int]) -> None:
    texts = [opening + text for text in texts]
    tree = TextTree.of(texts, len(opening))
    rows = opening + tree.ids
    places = [*range(len(opening)), *tree.positions]
    for text, path in zip(texts, tree.paths, strict=True):
        assert [rows[row] for row in path] == text
        assert [places[row] for row in path] == list(range(len(text)))


@given(TEXTS)
def test_what_texts_begin_with_alike_is_there_once(texts: list[list[int]]) -> None:
    beginnings = {tuple(text[:end]) for text in texts for end in range(1, len(text) + 1)}
    tree = TextTree.of(texts)
    assert len(tree.ids) == len(beginnings)
    assert sum(tree.own) == len(tree.ids)


@given(TEXTS, st.integers(1, 60))
def test_batches_hold_each_text_once_and_are_full(texts: list[list[int]], tokens: int) -> None:
    batches = list(tree_batches(texts, tokens))
    assert sorted(chain.from_iterable(batches)) == list(range(len(texts)))
    for batch in batches[:-1]:
        computed = len(TextTree.of([texts[i] for i in batch]).ids)
        assert tokens <= computed < tokens + 12


def test_a_batch_holds_texts_that_begin_alike() -> None:
    texts = [[1, 5], [2, 5], [1, 6], [2, 6]]
    assert list(tree_batches(texts, 3)) == [[0, 2], [1, 3]]
