"""All items that are there now: whatever was put and removed, they are what a dictionary would hold."""

from itertools import count

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from index_engines import MakeIndex, facts_of

from service import live_items
from service.errors import UnknownAttributeError
from service.faiss_index import FaissIndex
from service.filters import Condition
from service.index import unit_length
from service.live_items import LiveItems

WIDTH = 4
IDS = [f"item-{i}" for i in range(12)]


def vector(seed: int, *, unit: bool) -> np.ndarray:
    found = np.random.default_rng(seed).normal(size=WIDTH).astype(np.float32)
    return found / np.linalg.norm(found) if unit else found


changes = st.lists(st.tuples(st.sampled_from(IDS), st.integers(0, 10_000) | st.none()), max_size=30)


@settings(
    deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.integers(0, 6), changes, changes, st.booleans())
def test_items_are_those_put_and_not_removed(
    make_index: MakeIndex,
    first: int,
    before: list[tuple[str, int | None]],
    after: list[tuple[str, int | None]],
    unit: bool,
) -> None:
    expected = {item_id: i for i, item_id in enumerate(IDS[:first])}
    vectors = np.empty((first, WIDTH), dtype=np.float32)
    for row, seed in enumerate(expected.values()):
        vectors[row] = vector(seed, unit=unit)
    attributes = [{"seed": seed} for seed in expected.values()]
    facts = facts_of(attributes, cold=[one != "item-0" for one in expected])
    items = LiveItems(
        list(expected),
        attributes,
        make_index(vectors, facts),
        None if unit else make_index(unit_length(vectors), facts),
        trained={"item-0": 3},
    )
    query = vector(77_777, unit=True)
    keys = count(1)
    for some in (before, after):
        for item_id, seed in some:
            if seed is None:
                items.remove(item_id)
                expected.pop(item_id, None)
            else:
                items.put(item_id, {"seed": seed}, vector(seed, unit=unit), key=next(keys))
                expected[item_id] = seed
        check(items, expected, query, unit)
        items = items.compacted(np.flatnonzero(items.index.present()))
        check(items, expected, query, unit)


def check(items: LiveItems, expected: dict[str, int], query: np.ndarray, unit: bool) -> None:
    assert items.row_of.keys() == expected.keys()
    assert len(items) == len(expected)
    vectors = {one: vector(seed, unit=unit) for one, seed in expected.items()}
    scores = {one: float(found @ query) for one, found in vectors.items()}
    angles = {one: scores[one] / float(np.linalg.norm(found)) for one, found in vectors.items()}
    for index, wanted in ((items.index, scores), (items.similar, angles)):
        rows, sorted_scores = index.search(query, 50)
        found = dict(zip(map(items.id_at, rows), sorted_scores.tolist(), strict=True))
        assert found.keys() == wanted.keys()
        for item_id, score in found.items():
            assert abs(score - wanted[item_id]) < 1e-5
        assert list(found.values()) == sorted(found.values(), reverse=True)
    for item_id, row in items.row_of.items():
        assert items.attributes_at(row) == {"seed": expected[item_id]}
        assert items.index.vectors([row])[0].tolist() == vectors[item_id].tolist()
    low = {one for one, seed in expected.items() if seed < 5000}
    if expected:
        matching = items.matching({"seed": Condition(lt=5000)})
        assert {items.id_at(row) for row in np.flatnonzero(matching)} == low
    cold = items.cold(items.index.rows) & items.index.present()
    assert {items.id_at(row) for row in np.flatnonzero(cold)} == expected.keys() - {"item-0"}
    listed: list[str] = []
    while page := items.page(listed[-1] if listed else "", 3):
        listed += page
    assert listed == sorted(expected)


def test_much_change_makes_them_stale_and_compaction_fresh() -> None:
    items = LiveItems(["a"], [{}], FaissIndex(np.ones((1, WIDTH), np.float32)), trained={})
    for i in range(live_items.RECENT + 1):
        assert not items.stale
        items.put(f"b{i}", {}, vector(i, unit=False), key=i)
    assert items.stale
    assert not items.compacted(np.flatnonzero(items.index.present())).stale


def test_attributes_that_no_item_has_are_not_remembered() -> None:
    one = np.ones((1, WIDTH), np.float32)
    items = LiveItems(["a"], [{"size": {"width": 3}}], FaissIndex(one), trained={})
    assert items.matching({"size.width": Condition(any=[3])}).all()
    for i in range(100):
        with pytest.raises(UnknownAttributeError):
            items.matching({f"made-up-{i}": Condition(any=[3])})
    assert list(items._columns) == ["size.width"]
    items.put("b", {"new": 1}, one[0], key=1)
    assert items.matching({"new": Condition(any=[1])}).tolist() == [False, True]
