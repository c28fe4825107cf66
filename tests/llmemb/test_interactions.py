"""The leave-one-out split, popularity counted on training data only, head and tail."""

from itertools import chain
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmemb.catalogue import Catalogue
from llmemb.errors import DataError
from llmemb.interactions import Sequences, leave_one_out, read_sequences


def sequences(*lists: list[int]) -> Sequences:
    lengths = [len(items) for items in lists]
    return Sequences(
        np.array([*chain.from_iterable(lists)], dtype=np.int32),
        np.concatenate([[0], np.cumsum(lengths)]),
    )


def test_last_item_tests_and_the_one_before_validates() -> None:
    split = leave_one_out(sequences([1, 2, 3, 4], [5, 6], [2, 2, 2]), n_items=10)
    assert split.evaluated.tolist() == [0, 2]
    assert [split.train[u].tolist() for u in range(3)] == [[1, 2], [5, 6], [2]]
    assert split.targets("validation").tolist() == [3, 2]
    assert split.targets("test").tolist() == [4, 2]
    assert [h.tolist() for h in split.histories("validation")] == [[1, 2], [2]]
    assert [h.tolist() for h in split.histories("test")] == [[1, 2, 3], [2, 2]]


def test_popularity_counts_training_interactions_only() -> None:
    split = leave_one_out(sequences([0, 1, 2], [0, 0, 2]), n_items=4)
    assert split.popularity.tolist() == [2, 0, 0, 0]


def test_head_is_the_top_fifth() -> None:
    split = leave_one_out(sequences([3] * 5 + [4] * 3 + [0, 0]), n_items=10)
    assert np.flatnonzero(split.head).tolist() == [3, 4]


@given(st.lists(st.lists(st.integers(0, 9), max_size=8), min_size=1, max_size=8))
def test_no_interaction_is_lost_or_invented(lists: list[list[int]]) -> None:
    if all(len(items) < 3 for items in lists):
        with pytest.raises(DataError, match="no user has 3"):
            leave_one_out(sequences(*lists), 10)
        return
    split = leave_one_out(sequences(*lists), 10)
    again = [split.train[u].tolist() for u in range(len(lists))]
    for row, u in enumerate(split.evaluated):
        again[u] += [int(split.targets(part)[row]) for part in ("validation", "test")]
    assert again == lists
    assert split.popularity.sum() == len(split.train.items)


@given(st.lists(st.lists(st.integers(0, 9), min_size=3, max_size=8), min_size=1, max_size=8))
def test_items_held_out_are_in_no_training_sequence_and_stay_in_histories(
    lists: list[list[int]],
) -> None:
    whole = leave_one_out(sequences(*lists), 10)
    split = whole.holding_out(0.3, seed=1)
    assert split.held_out.sum() == 3
    expected = [[i for i in whole.train[u] if not split.held_out[i]] for u in range(len(lists))]
    assert [split.train[u].tolist() for u in range(len(lists))] == expected
    assert not split.popularity[split.held_out].any()
    for part in ("validation", "test"):
        assert np.array_equal(split.targets(part), whole.targets(part))
        histories = zip(split.histories(part), whole.histories(part), strict=True)
        assert all(np.array_equal(a, b) for a, b in histories)
    assert np.array_equal(split.held_out, whole.holding_out(0.3, seed=1).held_out)


def test_renumbering_keeps_the_sequences() -> None:
    found = sequences([2, 5], [], [5]).renumbered(np.array([9, 9, 0, 9, 9, 1]))
    assert [found[u].tolist() for u in range(3)] == [[0, 1], [], [1]]


def test_reading_names_what_does_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "interactions.parquet"
    catalogue = Catalogue(["a", "b"], [{}, {}])
    pl.DataFrame({"user": ["u", "u"], "item": ["a", "zzz"]}).write_parquet(path)
    with pytest.raises(DataError, match="names item 'zzz'"):
        read_sequences(path, catalogue)
    pl.DataFrame({"user": ["u", "v", "u"], "item": ["a", "b", "a"]}).write_parquet(path)
    with pytest.raises(DataError, match="not together"):
        read_sequences(path, catalogue)
    pl.DataFrame({"user": ["u"]}).write_parquet(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_sequences(path, catalogue)


def test_reading_keeps_order(tmp_path: Path) -> None:
    path = tmp_path / "interactions.parquet"
    pl.DataFrame({"user": ["v", "v", "u"], "item": ["b", "a", "b"]}).write_parquet(path)
    found = read_sequences(path, Catalogue(["a", "b"], [{}, {}]))
    assert [found[u].tolist() for u in range(len(found))] == [[1, 0], [1]]
