"""Ranking: without levers exactly the best scores; each lever does what its description says."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.faiss_index import FaissIndex
from service.filters import Condition
from service.live_items import LiveItems
from service.ranking import DAY, Wanted, boosts, diverse, ranked

WIDTH, ITEMS = 6, 30


def live(seed: int, trained: dict[str, int]) -> LiveItems:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(ITEMS, WIDTH)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return LiveItems(
        [f"item-{i}" for i in range(ITEMS)],
        [{"group": i % 3} for i in range(ITEMS)],
        FaissIndex(vectors),
        trained=trained,
    )


def rank(items: LiveItems, user: np.ndarray, wanted: Wanted) -> list[tuple[int, float]]:
    found, _ = ranked(items, user, wanted, excluded=(), repeated=(), repeat_bias=0.0)
    return found


@settings(deadline=None)
@given(st.integers(0, 99), st.integers(1, 40), st.sets(st.integers(0, ITEMS - 1)))
def test_without_levers_the_best_come(seed: int, k: int, excluded: set[int]) -> None:
    items = live(seed, {})
    user = np.random.default_rng(seed + 1).normal(size=WIDTH).astype(np.float32)
    repeated = set(range(0, ITEMS, 7)) - excluded
    found, eligible = ranked(
        items,
        user,
        Wanted(k, {"group": Condition(any=[0, 1])}),
        excluded=excluded,
        repeated=repeated,
        repeat_bias=-0.5,
    )
    scores = items.index.vectors(range(ITEMS)) @ user
    scores[list(repeated)] -= 0.5
    expected = [i for i in np.argsort(-scores) if i % 3 != 2 and i not in excluded][:k]
    assert [row for row, _ in found] == expected
    assert [score for _, score in found] == pytest.approx(scores[expected].tolist(), abs=1e-5)
    assert eligible == 20


@settings(deadline=None)
@given(
    st.integers(0, 99),
    st.integers(1, 12),
    st.integers(0, 12),
    st.sets(st.integers(0, ITEMS - 1)),
    st.sampled_from([0.0, 0.4]),
)
def test_cold_items_get_their_places(
    seed: int, k: int, min_cold: int, cold: set[int], diversity: float
) -> None:
    items = live(seed, {f"item-{i}": i + 1 for i in range(ITEMS) if i not in cold})
    user = np.random.default_rng(seed + 1).normal(size=WIDTH).astype(np.float32)
    rows = [row for row, _ in rank(items, user, Wanted(k, min_cold=min_cold, diversity=diversity))]
    assert len(rows) == len(set(rows)) == k
    assert len(cold & set(rows)) >= min(min_cold, k, len(cold))
    best = [row for row, _ in rank(items, user, Wanted(k, diversity=diversity))]
    if len(cold & set(best)) >= min_cold:
        assert rows == best
    elif not diversity:
        scores = items.index.vectors(range(ITEMS)) @ user
        strangers = sorted(cold, key=lambda i: -scores[i])[: min(min_cold, k)]
        assert cold & set(rows) == set(strangers)


def test_boosts_lift_the_rare_and_the_new() -> None:
    items = live(0, {"item-0": 100, "item-1": 1})
    items.put("new", {}, np.ones(WIDTH, dtype=np.float32), updated=time.time() - 3 * DAY, key=1)
    rows = np.array([0, 1, 2, ITEMS])
    tail = boosts(items, rows, Wanted(1, tail_boost=2))
    assert tail == pytest.approx([2 / (1 + np.log(101)), 2 / (1 + np.log(2)), 2, 2])
    fresh = boosts(items, rows, Wanted(1, freshness_boost=1, freshness_days=3))
    assert fresh == pytest.approx([0, 0, 0, 0.5], abs=1e-3)
    user = items.index.vectors([0])[0]
    assert rank(items, user, Wanted(1))[0][0] == 0
    assert rank(items, user, Wanted(ITEMS + 1, tail_boost=50))[-1][0] == 0
    assert rank(items, user, Wanted(1, freshness_boost=50))[0][0] == ITEMS


def test_diversity_passes_over_what_is_like_the_items_above() -> None:
    vectors = np.array([[1, 0], [0.999, 0.04], [0, 1]], dtype=np.float32)
    scores = np.array([1.0, 0.95, 0.9], dtype=np.float32)
    assert diverse(scores, vectors, 3, 0).tolist() == [0, 1, 2]
    assert diverse(scores, vectors, 3, 0.6).tolist() == [0, 2, 1]
    assert diverse(scores[:1], vectors[:1], 5, 1).tolist() == [0]
    assert diverse(scores[:0], vectors[:0], 5, 1).tolist() == []
