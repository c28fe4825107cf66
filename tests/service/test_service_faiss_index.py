"""FAISS: exact where it says so, at the recall that it says elsewhere."""

import numpy as np
import pytest
from index_engines import clustered, facts_of

from service import faiss_index
from service.faiss_index import FaissIndex
from service.index import unit_length


def expected(vectors: np.ndarray, query: np.ndarray, allowed: np.ndarray, k: int) -> np.ndarray:
    return np.sort((vectors @ query)[allowed])[::-1][:k]


def test_few_items_are_searched_exactly() -> None:
    vectors = clustered(300)
    there = FaissIndex(vectors)
    assert (there.lists, there.probes) == (0, {})
    _, scores = there.search(vectors[0], 10)
    np.testing.assert_allclose(
        scores, expected(vectors, vectors[0], np.ones(300, bool), 10), rtol=1e-5
    )


@pytest.mark.parametrize("storage", ["float16", "int8"])
def test_many_items_are_found_at_the_recall_that_was_measured(
    storage: faiss_index.Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faiss_index, "EXACT_ITEMS", 0)
    vectors = unit_length(clustered(20_000))
    there = FaissIndex(vectors, storage=storage)
    for depth in faiss_index.DEPTHS:
        assert 0 < there.probes[depth] < there.lists
        assert there.recall[depth] >= faiss_index.RECALL
        hits = 0
        for query in vectors[:100]:
            best = np.argsort(-(vectors @ query))[:depth]
            hits += np.intersect1d(there.search(query, depth)[0], best).size
        assert hits / 100 / depth >= there.recall[depth] - 0.02


def test_more_items_than_recall_was_measured_for_are_searched_exactly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(faiss_index, "EXACT_ITEMS", 0)
    vectors = clustered(3000)
    k = faiss_index.DEPTHS[-1] + 1
    _, scores = FaissIndex(vectors).search(vectors[0], k)
    np.testing.assert_allclose(
        scores, expected(vectors, vectors[0], np.ones(3000, bool), k), rtol=1e-4, atol=1e-5
    )


def test_rebuilding_uses_the_lists_again_unless_the_items_are_many_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(faiss_index, "EXACT_ITEMS", 0)
    vectors = clustered(3000)
    there = FaissIndex(vectors[:1000])
    for vector in vectors[1000:1100]:
        there.add(vector)
    again = there.rebuilt(np.arange(5, 1100), facts_of([{}] * 1095))
    assert again.lists == there.lists
    np.testing.assert_array_equal(again.vectors(range(1095)), vectors[5:1100])
    for vector in vectors[1100:]:
        again.add(vector)
    assert again.rebuilt(np.arange(2995), facts_of([{}] * 2995)).lists > there.lists
