"""The index is exact, whatever is excluded."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from service.index import ItemIndex, unit_length


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_search_equals_sorting_all_scores(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 60))
    k = data.draw(st.integers(1, 80))
    excluded = data.draw(st.sets(st.integers(0, n - 1)))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    vectors = rng.normal(size=(n, 5)).astype(np.float32)
    query = rng.normal(size=5).astype(np.float32)
    found = ItemIndex(vectors).search(query, k, excluded)
    scores = vectors @ query
    expected = [i for i in np.argsort(-scores) if i not in excluded][:k]
    assert [i for i, _ in found] == expected
    np.testing.assert_allclose([s for _, s in found], scores[expected], rtol=1e-4, atol=1e-5)


def test_unit_length_leaves_a_zero_vector_alone() -> None:
    scaled = unit_length(np.array([[3, 4], [0, 0]], dtype=np.float32))
    np.testing.assert_allclose(scaled, [[0.6, 0.8], [0, 0]])
    assert scaled.dtype == np.float32
