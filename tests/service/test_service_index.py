"""What every index promises, whichever engine searches; those that FAISS has besides have their own file."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from index_engines import MakeIndex, clustered, facts_of

from service.filters import Condition
from service.index import Among, unit_length
from service.live_items import LiveItems

WIDTH = 8
GENRES = ["Drama", "Western", "Crime"]


def expected(vectors: np.ndarray, query: np.ndarray, allowed: np.ndarray, k: int) -> np.ndarray:
    return np.sort((vectors @ query)[allowed])[::-1][:k]


@settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_among_some_items_search_equals_sorting_all_scores(
    make_index: MakeIndex, data: st.DataObject
) -> None:
    """Whatever share of them it is, and whether or not it has to do with the query."""
    vectors = clustered(data.draw(st.integers(40, 400)), data.draw(st.integers(0, 50)))
    late = clustered(data.draw(st.integers(0, 30)), 99)
    there = make_index(vectors)
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
    rows, scores = there.search(query, k, excluded, Among(allowed))
    allowed[list(removed | excluded)] = False
    np.testing.assert_allclose(scores, expected(vectors, query, allowed, k), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(scores, vectors[rows] @ query, rtol=1e-4, atol=1e-5)
    assert allowed[rows].all()
    assert len(set(rows.tolist())) == len(rows)


def test_as_many_come_as_are_wanted_and_there(make_index: MakeIndex) -> None:
    vectors = clustered(300)
    there = make_index(vectors)
    for k in (1, 10, 299, 300, 1000):
        assert len(there.search(vectors[0], k)[0]) == min(k, 300)
    rows, _ = there.search(vectors[0], 50, excluded=range(260))
    assert sorted(rows.tolist()) == list(range(260, 300))


def test_what_is_added_is_found_at_once_and_what_is_removed_never(make_index: MakeIndex) -> None:
    vectors = clustered(300)
    there = make_index(vectors)
    row = there.add(2 * vectors[3])
    assert there.search(vectors[3], 1)[0].tolist() == [row]
    there.remove(row)
    there.remove(3)
    rows, _ = there.search(vectors[3], 301)
    assert not {3, row} & set(rows.tolist())
    assert len(rows) == 299


def test_built_anew_it_has_the_rows_that_were_asked_for(make_index: MakeIndex) -> None:
    vectors = clustered(310)
    there = make_index(vectors[:300], facts_of([{}] * 300))
    for vector in vectors[300:]:
        there.add(vector)
    there.remove(7)
    there.remove(305)
    rows = np.flatnonzero(there.present())
    keys = np.append(-1 - np.arange(300), np.arange(1, 11))
    facts = facts_of([{}] * len(rows), keys=keys[rows], gone=keys[[7, 305]])
    again = there.rebuilt(rows, facts)
    assert (again.rows, again.added, again.removed) == (308, 0, 0)
    np.testing.assert_array_equal(again.vectors(range(308)), vectors[rows])
    for query in vectors[[7, 305, 3]]:
        _, scores = again.search(query, 20)
        np.testing.assert_allclose(
            scores, expected(vectors[rows], query, np.ones(308, bool), 20), rtol=1e-4, atol=1e-5
        )


def test_it_counts_what_scores_higher(make_index: MakeIndex) -> None:
    vectors = clustered(300)
    there = make_index(vectors[:290])
    for vector in vectors[290:]:
        there.add(vector)
    there.remove(7)
    scores = vectors @ vectors[3]
    asked = np.array([-1e9, scores[40] + 1e-4, 1e9], dtype=np.float32)
    counts = there.above(vectors[3], asked)
    left = np.delete(scores, 7)
    assert counts.tolist() == [299, int((left > asked[1]).sum()), 0]


@pytest.mark.parametrize(
    "condition",
    [
        {"genres": Condition(any=["Drama", "Crime"])},
        {"genres": Condition(all=["Drama", "Crime"])},
        {"genres": Condition(none=["Drama"]), "year": Condition(gte=1950)},
        {"year": Condition(gt=1910.5, lt=1990)},
        {"made.in": Condition(any=[" Spain"])},
        {"years": Condition(gte=1940, lte=1945)},  # of several numbers one must be within
        {"seen": Condition(any=[True])},
    ],
)
@pytest.mark.parametrize("cold", [False, True])
def test_filters_keep_the_best_of_those_that_pass(
    make_index: MakeIndex, condition: dict[str, Condition], cold: bool
) -> None:
    vectors = clustered(300)
    attributes = [
        {
            "genres": GENRES[i % 3 : i % 3 + 1 + i % 2],
            "year": 1900 + i % 100 + i % 4 / 4,
            "years": [1900 + i % 30, 1980],
            "made": {"in": ["Spain", "Italy"][i % 2]},
            "seen": i % 5 if i % 2 else i % 5 == 1,
        }
        for i in range(300)
    ]
    ids = [f"item-{i}" for i in range(300)]
    trained = dict.fromkeys(ids[::3], 3)
    facts = facts_of(attributes, cold=[i % 3 != 0 for i in range(300)])
    items = LiveItems(ids, attributes, make_index(vectors, facts), trained=trained)
    items.put("item-4", attributes[8], vectors[4], key=1)
    among = items.among(condition, cold=cold)
    assert among is not None
    allowed = among.rows.copy()
    rows, scores = items.index.search(vectors[11], 25, among=among)
    assert allowed[rows].all()
    everything = items.index.vectors(range(301))
    np.testing.assert_allclose(
        scores, expected(everything, vectors[11], allowed, 25), rtol=1e-4, atol=1e-5
    )


def test_unit_length_leaves_a_zero_vector_alone() -> None:
    scaled = unit_length(np.array([[3, 4], [0, 0]], dtype=np.float32))
    np.testing.assert_allclose(scaled, [[0.6, 0.8], [0, 0]])
    assert scaled.dtype == np.float32
