"""A row of Amazon's metadata to attributes: prices, prose, and what no release has."""

import pytest

from trainer.data.amazon_products import LIST_TEXTS, TEXT_CHARS, product


def test_popularity_links_ids_and_images_are_no_attributes():
    left_out = {
        **dict.fromkeys(["asin", "parent_asin", "imUrl", "imageURL", "images", "videos"], "B1"),
        **dict.fromkeys(["salesRank", "rank", "average_rating", "rating_number"], 5),
        **dict.fromkeys(["related", "also_buy", "also_view", "similar_item"], "B2"),
        **dict.fromkeys(["bought_together", "details", "tech1", "tech2", "fit", "date"], "x"),
    }
    assert product(left_out) == ({}, [])


def test_nulls_and_placeholders_are_no_attributes():
    nulls = dict.fromkeys(["title", "brand", "store", "categories", "price", "description"])
    assert product(nulls) == ({}, [])
    assert product({"brand": "Unknown", "category": [""], "feature": []}) == ({}, [])


def test_text_of_web_pages_becomes_plain_text():
    row = {
        "title": " 3 &lt; 4 <b>bold</b>\n&#39;em&nbsp;",
        "description": "<p class='x'>a</p><p>b</p>",
    }
    assert product(row)[0] == {"title": "3 < 4 bold 'em", "description": "a b"}


@pytest.mark.parametrize(
    ("given", "price"),
    [
        (7.86, 7.86),
        (12, 12),
        ("$7.86", 7.86),
        ("$1,299.00", 1299.0),
        ("$.99", 0.99),
        ("$5.99 - $12.99", "$5.99 - $12.99"),
        ("from 14.99", "from 14.99"),
        *((nothing, None) for nothing in (None, "", "None", "—")),
    ],
)
def test_a_price_is_a_number_or_a_range(given, price):
    assert product({"price": given}) == ({} if price is None else {"price": price}, [])


@pytest.mark.parametrize(
    "given", ["$", "Currently unavailable", True, float("nan"), [1], "9" * 50_000 + "x"]
)
def test_what_is_no_price_is_named(given):
    attributes, unreadable = product({"price": given})
    assert attributes == {}
    assert "is not a price" in unreadable[0]


def test_texts_are_cut_so_that_a_product_is_not_refused_for_its_prose():
    attributes, _ = product(
        {"description": ["word " * 50_000], "feature": [f"{i} " + "x" * 9999 for i in range(99)]}
    )
    assert len(attributes["description"]) <= TEXT_CHARS
    assert [len(text) for text in attributes["features"]] == [TEXT_CHARS] * LIST_TEXTS


@pytest.mark.parametrize("value", [5, {"a": 1}, [5], [[["deep"]]]])
def test_a_list_of_another_type_is_an_error(value):
    with pytest.raises(ValueError, match="categories is not a text or a list of texts"):
        product({"categories": value})
