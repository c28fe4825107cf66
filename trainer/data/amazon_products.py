"""A row of Amazon's product metadata, of any release, to the attributes of an item."""

import html
import math
import re
from collections.abc import Mapping
from typing import Any

TEXT_CHARS = 1_000  # of one text; a page of prose in the description is cut there
LIST_TEXTS = 32  # of one list, so that a product stays below the size an item may have
NO_BRAND = ("Unknown",)
NO_PRICE = ("", "None", "—")

_TAG = re.compile(
    r"</?(?:a|b|br|center|div|em|font|h[1-6]|hr|i|img|li|ol|p|script|small|span|strong|style|sub|sup|"
    r"table|tbody|td|th|tr|u|ul)\b[^<>]*>",
    re.IGNORECASE,
)
_AMOUNT = r"\$?([0-9][0-9,]*(?:\.[0-9]+)?|\.[0-9]+)"
_PRICE = re.compile(_AMOUNT)
_PRICE_RANGE = re.compile(rf"from {_AMOUNT}|{_AMOUNT} ?- ?{_AMOUNT}")
_SCRIPT = (
    "getTime"  # 2018's page marks such rows, titles that hold the page's JavaScript, as unformatted
)


def product(row: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return a product's attributes, and what of it is there but cannot be read.

    - ``title``
    - ``brand`` of 2014 and 2018, ``store`` of 2023
    - ``categories``: 2014's paths, 2018's ``category``, 2023's ``main_category`` and ``categories``,
      as one list in which no name, such as the root of several paths, is there twice
    - ``price`` in dollars: a number, or a range as the shop shows it
    - ``features``: 2018's ``feature``
    - ``description``

    Texts are those of web pages: entities are resolved and tags removed. They are cut at
    ``TEXT_CHARS``, lists at ``LIST_TEXTS``.

    Left out are what a new product cannot have, popularity (``salesRank``, ``rank``,
    ``average_rating``, ``rating_number``) and links to others (``related``, ``also_buy``,
    ``also_view``, ``similar_item``, ``bought_together``); what says nothing in words: ids, addresses,
    images and videos; and the free-form ``details``, ``tech1``, ``tech2``, ``fit`` and ``date``, in
    which all of these stand between sizes and model numbers.

    >>> product({"asin": "B0", "title": "Lip &amp; Cheek", "categories": [["Beauty", "Lips"]]})
    ({'title': 'Lip & Cheek', 'categories': ['Beauty', 'Lips']}, [])

    Raises:
        ValueError: a field is of a type that no release has.
    """
    unreadable = []
    title = _text(row, "title")
    if title and _SCRIPT in row["title"]:
        unreadable.append(f"title {title!r} is a script")
        title = ""
    price = None
    try:
        price = _price(row.get("price"))
    except ValueError as error:
        unreadable.append(str(error))
    brand = _text(row, "brand")
    attributes = {
        "title": title,
        "brand": "" if brand in NO_BRAND else brand,
        "store": _text(row, "store"),
        "categories": _texts(row, "main_category", "categories", "category"),
        "price": price,
        "features": _texts(row, "feature", "features"),
        "description": " ".join(_texts(row, "description"))[:TEXT_CHARS].rstrip(),
    }
    return {
        name: value for name, value in attributes.items() if value not in ("", None, [])
    }, unreadable


def _text(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError(f"{name} is of type {type(value).__name__}, not text")
    return _clean(value)


def _texts(row: Mapping[str, Any], *names: str) -> list[str]:
    """Return the texts of some fields, each a text, a list of texts or a list of such lists."""
    found: dict[str, None] = {}
    for name in names:
        value = row.get(name) or []
        parts = value if isinstance(value, list) else [value]
        flat = [text for part in parts for text in (part if isinstance(part, list) else [part])]
        if not all(isinstance(text, str) for text in flat):
            raise ValueError(f"{name} is not a text or a list of texts")
        found.update(dict.fromkeys(_clean(text) for text in flat))
    found.pop("", None)
    return list(found)[:LIST_TEXTS]


def _clean(text: str) -> str:
    plain = _TAG.sub(" ", html.unescape(text))
    return " ".join(plain.split())[:TEXT_CHARS].rstrip()


def _price(value: Any) -> float | str | None:
    if value is None or value in NO_PRICE:
        return None
    if type(value) is int or (isinstance(value, float) and math.isfinite(value)):
        return value
    text = value.strip() if isinstance(value, str) else ""
    if _PRICE.fullmatch(text):
        return float(text.replace("$", "").replace(",", ""))
    if _PRICE_RANGE.fullmatch(text):
        return text
    raise ValueError(f"price {value!r} is not a price")
