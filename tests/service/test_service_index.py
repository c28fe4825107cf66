"""The index: exact where it says so, at the recall that it says elsewhere."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service import index
from service.index import ItemIndex, unit_length

WIDTH = 8


@pytest.fixture(params=["exact", "lists"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to search, on a few items."""
    if request.param == "lists":
        monkeypatch.setattr(index, "EXACT_ITEMS", 0)
    return str(request.param)


def clustered(items: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(20, WIDTH))
    found = centres[rng.integers(0, 20, items)] + 0.3 * rng.normal(size=(items, WIDTH))
    return found.astype(np.float32)


def expected(vectors: np.ndarray, query: np.ndarray, allowed: np.ndarray, k: int) -> np.ndarray:
    return np.sort((vectors @ query)[allowed])[::-1][:k]


@pytest.mark.usefixtures("kind")
@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_among_some_items_search_equals_sorting_all_scores(data: st.DataObject) -> None:
    """Whatever share of them it is, and whether or not it has to do with the query."""
    vectors = clustered(data.draw(st.integers(40, 400)), data.draw(st.integers(0, 50)))
    late = clustered(data.draw(st.integers(0, 30)), 99)
    there = ItemIndex(vectors)
    for vector in late:
        there.add(vector)
    vectors = np.concatenate([vectors, late])
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    query = rng.normal(size=WIDTH).astype(np.float32)
    allowed = rng.random(len(vectors)) < data.draw(st.sampled_from([0, 0.02, 0.5, 1]))
    if data.draw(st.booleans()):
        allowed &= vectors @ query < np.median(vectors @ query)
    removed, excluded = (set(rng.integers(0, len(vectors), 20).tolist()) for _ in range(2))
    for row in removed:
        there.remove(row)
    k = data.draw(st.integers(1, 80))
    rows, scores = there.search(query, k, excluded, allowed)
    allowed[list(removed | excluded)] = False
    np.testing.assert_allclose(scores, expected(vectors, query, allowed, k), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(scores, vectors[rows] @ query, rtol=1e-4, atol=1e-5)
    assert allowed[rows].all()
    assert len(set(rows.tolist())) == len(rows)


@pytest.mark.usefixtures("kind")
def test_as_many_come_as_are_wanted_and_there() -> None:
    vectors = clustered(300)
    there = ItemIndex(vectors)
    for k in (1, 10, 299, 300, 1000):
        assert len(there.search(vectors[0], k)[0]) == min(k, 300)
    rows, _ = there.search(vectors[0], 50, excluded=range(260))
    assert sorted(rows.tolist()) == list(range(260, 300))


def test_few_items_are_searched_exactly() -> None:
    vectors = clustered(300)
    there = ItemIndex(vectors)
    assert (there.lists, there.probes) == (0, {})
    _, scores = there.search(vectors[0], 10)
    np.testing.assert_allclose(
        scores, expected(vectors, vectors[0], np.ones(300, bool), 10), rtol=1e-5
    )


@pytest.mark.parametrize("storage", ["float16", "int8"])
def test_many_items_are_found_at_the_recall_that_was_measured(
    storage: index.Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "EXACT_ITEMS", 0)
    vectors = unit_length(clustered(20_000))
    there = ItemIndex(vectors, storage=storage)
    for depth in index.DEPTHS:
        assert 0 < there.probes[depth] < there.lists
        assert there.recall[depth] >= index.RECALL
        hits = 0
        for query in vectors[:100]:
            best = np.argsort(-(vectors @ query))[:depth]
            hits += np.intersect1d(there.search(query, depth)[0], best).size
        assert hits / 100 / depth >= there.recall[depth] - 0.02


def test_more_items_than_recall_was_measured_for_are_searched_exactly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(index, "EXACT_ITEMS", 0)
    vectors = clustered(3000)
    k = index.DEPTHS[-1] + 1
    _, scores = ItemIndex(vectors).search(vectors[0], k)
    np.testing.assert_allclose(
        scores, expected(vectors, vectors[0], np.ones(3000, bool), k), rtol=1e-4, atol=1e-5
    )


def test_rebuilding_uses_the_lists_again_unless_the_items_are_many_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(index, "EXACT_ITEMS", 0)
    vectors = clustered(3000)
    there = ItemIndex(vectors[:1000])
    for vector in vectors[1000:1100]:
        there.add(vector)
    again = there.rebuilt(np.arange(5, 1100))
    assert again.lists == there.lists
    np.testing.assert_array_equal(again.vectors(range(1095)), vectors[5:1100])
    for vector in vectors[1100:]:
        again.add(vector)
    assert again.rebuilt(np.arange(2995)).lists > there.lists


@pytest.mark.usefixtures("kind")
def test_it_counts_what_scores_higher() -> None:
    vectors = clustered(300)
    there = ItemIndex(vectors[:290])
    for vector in vectors[290:]:
        there.add(vector)
    there.remove(7)
    scores = vectors @ vectors[3]
    asked = np.array([-1e9, scores[40] + 1e-4, 1e9], dtype=np.float32)
    counts = there.above(vectors[3], asked)
    left = np.delete(scores, 7)
    assert counts.tolist() == [299, int((left > asked[1]).sum()), 0]


def test_unit_length_leaves_a_zero_vector_alone() -> None:
    scaled = unit_length(np.array([[3, 4], [0, 0]], dtype=np.float32))
    np.testing.assert_allclose(scaled, [[0.6, 0.8], [0, 0]])
    assert scaled.dtype == np.float32
