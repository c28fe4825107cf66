"""Filters: what is found by turning a column round is what holds of each item by itself."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from service.filters import Column, Condition, names_of, value_of

scalars = (
    st.sampled_from(["a", "b", " a ", "e\u0301", "\u00e9"])
    | st.integers(-3, 3)
    | st.floats(-3, 3)
    | st.booleans()
    | st.sampled_from([10**400, -(10**400)])
)
values = st.none() | scalars | st.lists(scalars, max_size=3) | st.just({"inner": "a"})
several = st.none() | st.lists(scalars, max_size=3)
bounds = st.none() | st.integers(-3, 3) | st.floats(-3, 3)
conditions = st.builds(
    Condition, any=several, all=several, none=several, gte=bounds, gt=bounds, lte=bounds, lt=bounds
)


@given(st.lists(values, max_size=20), conditions)
def test_a_column_answers_as_every_item_does(found: list[Any], condition: Condition) -> None:
    expected = [condition.holds(value) for value in found]
    assert Column(found).mask(condition).tolist() == expected


def test_values_are_compared_as_the_catalogue_compares_them() -> None:
    assert Condition(any=["Caf\u00e9"]).holds("  Cafe\u0301 ")
    assert Condition(any=[1]).holds(1.0)
    assert not Condition(any=[1]).holds(True)
    assert not Condition(gte=0).holds(True)
    assert Condition(all=["a", "b"]).holds(["b", "c", "a"])
    assert not Condition(any=["a"]).holds(None)
    assert Condition(none=["a"]).holds(None)


def test_a_path_leads_into_an_object() -> None:
    assert value_of({"size": {"width": 3}}, "size.width") == 3
    assert value_of({"size.width": 4, "size": {"width": 3}}, "size.width") == 4
    assert value_of({"size": 5}, "size.width") is None


def test_every_name_that_leads_to_a_value_is_known() -> None:
    attributes = {"size": {"width": 3, "of": {"box": 1}}, "a.b": 2}
    names = set(names_of(attributes))
    assert names == {"size", "size.width", "size.of", "size.of.box", "a.b"}
    assert all(value_of(attributes, name) is not None for name in names)
