"""Attributes to text, and the random views that SCFT compares."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmemb.catalogue import Catalogue, content_hash
from llmemb.prompt import PromptTemplate, excluded_by_default, shared_first, shared_opening

FILM = {"title": "Toy Story", "year": 1995, "genres": ["Animation", "Comedy"]}
TEMPLATE = PromptTemplate(domain="film", fields=("title", "year", "genres"))


def test_the_prompt_reads_as_the_papers() -> None:
    assert TEMPLATE.render(FILM) == (
        "The film item has the following attributes: "
        "title is Toy Story; year is 1995; genres is Animation, Comedy"
    )


def test_any_schema_has_a_text() -> None:
    item = {
        "inStock": True,
        "price": 9.5,
        "weight": 2.0,
        "maker": {"name": "ACME; Inc.", "founded_in": 1901, "owner": None},
        "sizes": [1, None, {"eu": 42}],
        "blurb": "two\nlines",
        "empty": [],
        "missing": None,
    }
    assert PromptTemplate().render(item) == (
        "The item item has the following attributes: blurb is two lines; in stock is yes; "
        "maker founded in is 1901; maker name is ACME, Inc.; price is 9.5; sizes is 1, eu 42; weight is 2"
    )


def test_key_order_does_not_change_the_prompt() -> None:
    assert TEMPLATE.render(dict(reversed(FILM.items()))) == TEMPLATE.render(FILM)


def test_spellings_that_share_a_hash_share_a_prompt() -> None:
    one = {"title": "Amélie ", "year": 2001.0, "genres": [], "cast": [{"name": "Audrey Tautou"}]}
    other = {
        "year": 2001,
        " cast": [{"name ": "Audrey Tautou", "age": None}],
        "title": "Ame\u0301lie",
    }
    assert content_hash(one) == content_hash(other)
    assert TEMPLATE.render(one) == TEMPLATE.render(other)


def test_unknown_attributes_follow_the_known_ones_alphabetically() -> None:
    text = TEMPLATE.render({"zone": "a", "award": "b", "title": "c"})
    assert text.endswith("title is c; award is b; zone is a")


def test_excluded_attributes_stay_out() -> None:
    template = TEMPLATE.model_copy(update={"exclude": ("year",)})
    assert "1995" not in template.render(FILM)
    assert not template.readable({"year": 1995})


def test_a_long_value_is_cut() -> None:
    template = PromptTemplate(value_chars=10)
    assert template.render({"blurb": "x" * 1_000_000}).endswith("blurb is " + "x" * 10)


def test_an_item_without_attributes_says_so() -> None:
    assert TEMPLATE.render({"title": None}) == "The film item has no known attributes."
    assert not TEMPLATE.readable({"title": ""})


@given(st.integers(0, 2**32 - 1), st.floats(0, 0.99))
def test_a_view_holds_some_of_the_items_statements_and_no_other(seed: int, drop: float) -> None:
    whole = set(TEMPLATE.render(FILM).split(": ", 1)[1].split("; "))
    statements = TEMPLATE.augment(FILM, np.random.default_rng(seed), drop)
    assert len(statements) == max(1, 3 - int(drop * 3)) == len(set(statements))
    assert set(statements) <= whole


def test_the_only_attribute_is_never_dropped() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        assert TEMPLATE.augment({"title": "Solo"}, rng, 0.9) == ["title is Solo"]


def test_views_are_fresh_and_repeatable() -> None:
    def views(seed: int) -> list[list[str]]:
        rng = np.random.default_rng(seed)
        return [TEMPLATE.augment(FILM, rng, 0.4) for _ in range(20)]

    assert len({tuple(view) for view in views(0)}) > 3
    assert views(0) == views(0) != views(1)


def test_popularity_is_kept_from_the_llm() -> None:
    items = [
        {
            "title": "a",
            "stars": 4.5,
            "review_count": 10,
            "rank": "1,234 in Beauty",
            "rating": "PG-13",
        },
        {
            "title": "b",
            "stars": 3,
            "salesRank": {"Beauty": 7},
            "ratings": {"avg": 3.1},
            "rating": "R",
        },
    ]
    found = excluded_by_default(Catalogue(["a", "b"], items))
    assert set(found) == {"stars", "review_count", "rank", "salesRank", "ratings"}


def test_names_that_only_sound_like_popularity_stay() -> None:
    items = [{"stars": ["Tom Hanks"], "frank": 1, "start": 2, "review": "5 stars", "country": "x1"}]
    assert excluded_by_default(Catalogue(["a"], items)) == ()


def test_identifiers_and_links_are_left_out() -> None:
    item = {
        "asin": "B00",
        "imageUrl": "http://x",
        "isbn": "97",
        "title": "T",
        "casino": "y",
        "url": 1,
    }
    found = excluded_by_default(Catalogue(["a"], [item]))
    assert set(found) == {"asin", "imageUrl", "isbn", "url"}


def catalogue_of(items: list[dict[str, object]]) -> Catalogue:
    return Catalogue([str(i) for i in range(len(items))], items)


def test_what_items_share_comes_first_the_commonest_foremost() -> None:
    items = [
        {"title": f"film {i}", "year": 1990 + i % 5, "genres": ["Comedy", "Drama"][i % 2]}
        for i in range(20)
    ]
    assert shared_first(catalogue_of(items)) == ("genres", "year", "title")


def test_what_most_items_have_for_themselves_stays_in_order() -> None:
    items = [{"title": f"film {i}", "plot": f"plot {i // 2 if i < 6 else i}"} for i in range(20)]
    assert shared_first(catalogue_of(items)) == ("title", "plot")


def test_long_shared_values_do_not_push_the_rest_out_of_the_prompt() -> None:
    items = [
        {
            "title": f"film {i}",
            "terms": "may be lent, " * 15,
            "care": "handle well, " * 14,
            "year": 5,
        }
        for i in range(20)
    ]
    assert shared_first(catalogue_of(items)) == ("terms", "year", "title", "care")
    assert shared_first(catalogue_of(items), exclude=["terms"])[:2] == ("care", "year")


def test_the_opening_is_what_nearly_all_prompts_begin_with() -> None:
    template = PromptTemplate(domain="film", fields=("title",))
    prompts = [template.render({"title": f"Story {i}"}) for i in range(19)]
    assert shared_opening(prompts) == ("The film item has the following attributes: title is Story")
    odd = [template.render({"year": 1990})]
    assert shared_opening(prompts + odd).endswith("title is Story")
    assert shared_opening(prompts + odd * 4).endswith("attributes:")


@pytest.mark.parametrize("prompts", [[], ["same text"], ["same text"] * 3, ["one", "other"]])
def test_the_opening_is_never_a_whole_prompt(prompts: list[str]) -> None:
    assert shared_opening(prompts) in ("", "same")
