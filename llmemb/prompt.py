"""Attributes to text: the prompt that the LLM reads, and attribute-level augmentation of it.

Both are functions of the attributes and the template alone, so that trainer and service agree.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from llmemb.catalogue import Attributes, Catalogue, canonical_attributes
from llmemb.errors import ItemError

SAMPLED = 256
NEARLY_ALL = 0.9
SHARED_CHARS = 200  # of shared values at a prompt's beginning, on average

S = TypeVar("S")

POPULARITY_NAME = re.compile(
    r"\b(popularity|rank|bestseller|stars?|votes?|likes?|clicks?|views?|purchases|downloads|"
    r"(average |avg )?ratings?( (count|number|average|total))?|"
    r"(num|number|n|count|total)( of)? (ratings?|reviews?|votes|sales|orders|views)|"
    r"(reviews?|sales|orders?|views) (count|number|total|rank))$"
)
"""Names, in words, of attributes that may tell how popular an item is; a new item has none of them."""

IDENTIFIER_NAME = re.compile(
    r"\b(asin|isbn|issn|ean|upc|gtin|sku|mpn|uuid|guid|ur[li]s?|images?|thumbnails?)$"
)
"""Names, in words, of attributes that name an item or point to it and say nothing about it."""


class PromptTemplate(BaseModel):
    """How attributes are written for the LLM; kept in the bundle, part of the encoder's fingerprint.

    The text is ``The <domain> item has the following attributes: k1 is v1; k2 is v2`` as in the
    LLMEmb paper (arXiv 2409.19925, section 3.2).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    domain: str = "item"
    fields: tuple[str, ...] = ()  # attributes in this order first, others alphabetically after
    exclude: tuple[str, ...] = ()  # attributes that never enter the prompt
    value_chars: int = Field(default=200, ge=1)  # a longer value is cut there

    def render(self, attributes: Attributes) -> str:
        """Return the prompt of an item; key order in ``attributes`` does not matter."""
        return self.text(self.statements(attributes))

    def render_known(self, attributes: Attributes) -> str:
        """Return the prompt of an item of which it says something.

        Raises:
            ItemError: it would say nothing.
        """
        statements = self.statements(attributes)
        if not statements:
            besides = f" besides {', '.join(self.exclude)}" if self.exclude else ""
            raise ItemError(f"there is nothing to read: no attribute has a value{besides}")
        return self.text(statements)

    def augment(self, attributes: Attributes, rng: np.random.Generator, drop: float) -> list[str]:
        """Return one random view of an item: its statements shuffled, a share ``drop`` left out.

        :meth:`text` makes a prompt of them. At least one always stays: an item reduced to none would
        equal every other.
        """
        statements = self.statements(attributes)
        kept = max(1, len(statements) - int(drop * len(statements)))
        order = rng.permutation(len(statements))[:kept]
        return [statements[i] for i in order]

    def readable(self, attributes: Attributes) -> bool:
        """Return whether anything of the item reaches the prompt."""
        return bool(self.statements(attributes))

    def text(self, statements: Sequence[str]) -> str:
        """Return the prompt that makes these statements."""
        if not statements:
            return f"The {self.domain} item has no known attributes."
        return f"The {self.domain} item has the following attributes: {'; '.join(statements)}"

    def statements(self, attributes: Attributes) -> list[str]:
        """Return what the prompt says of an item, in order; :meth:`text` makes the prompt of it."""
        # From the canonical form: spellings that share a content hash must share a prompt.
        attributes = canonical_attributes(attributes)
        order = {name: i for i, name in enumerate(self.fields)}
        names = sorted(attributes, key=lambda name: (order.get(name, len(order)), name))
        statements = []
        for name in names:
            if name in self.exclude:
                continue
            for path, value in _leaves(_words(name), attributes[name]):
                statements.append(f"{path} is {value[: self.value_chars].rstrip()}")
        return statements


def sampled(catalogue: Sequence[S], about: int = SAMPLED) -> Sequence[S]:
    """Return about so many items or prompts, spread over the catalogue; all where there are fewer."""
    return catalogue[:: max(1, len(catalogue) // about)]


def shared_opening(prompts: Sequence[str]) -> str:
    """Return the words that nearly all prompts begin with, up to a blank."""
    opening: list[str] = []
    sharing = [prompt.split(" ") for prompt in prompts]
    while True:
        following = Counter(
            words[len(opening)] for words in sharing if len(words) > len(opening) + 1
        )
        word, count = following.most_common(1)[0] if following else ("", 0)
        if count == 0 or count < NEARLY_ALL * len(prompts):
            return " ".join(opening)
        opening.append(word)
        sharing = [words for words in sharing if words[: len(opening)] == opening]


def shared_first(catalogue: Catalogue, exclude: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the attributes, first those whose values items share, the fewest values foremost.

    Prompts then begin alike, and what they begin with alike is computed once. A value belongs to two
    items at least, on average; together they are short, so that a long prompt is not cut before what
    tells its item from others.
    """
    values: dict[str, Counter[str]] = {name: Counter() for name in catalogue.fields()}
    for item in map(canonical_attributes, catalogue.attributes):
        for name, value in item.items():
            if text := _text_of(value):
                values[name][text] += 1
    shared = [name for name in values if name not in exclude]
    shared = [name for name in shared if 0 < 2 * len(values[name]) <= values[name].total()]
    first: list[str] = []
    room = float(SHARED_CHARS)
    for name in sorted(shared, key=lambda name: len(values[name])):
        found = values[name]
        length = sum(len(text) * count for text, count in found.items()) / found.total()
        if length <= room:
            first.append(name)
            room -= length
    return (*first, *(name for name in values if name not in first))


def excluded_by_default(catalogue: Catalogue) -> tuple[str, ...]:
    """Return the attributes that do not enter the prompt unless asked for.

    Those that tell an item's popularity, named so and a number in every item: ``stars: 4.5`` is one,
    ``stars: ["Tom Hanks"]`` and ``rating: "PG"`` are not. And those that are named as identifiers or
    links: ``asin``, ``image_url``.
    """
    return tuple(
        name
        for name in dict.fromkeys(catalogue.fields())
        if IDENTIFIER_NAME.search(_words(name))
        or (POPULARITY_NAME.search(_words(name)) and _numeric(catalogue, name))
    )


def _numeric(catalogue: Catalogue, name: str) -> bool:
    return all(
        any(character.isdigit() for character in text)
        for item in map(canonical_attributes, catalogue.attributes)
        if (text := _text_of(item.get(name)))
    )


def _leaves(path: str, value: Any) -> Iterator[tuple[str, str]]:
    """Yield ``(name, text)`` for each value that says something; an object yields one for each key."""
    if isinstance(value, Mapping):
        for key in sorted(value):
            yield from _leaves(f"{path} {_words(key)}", value[key])
    elif text := _text_of(value):
        yield path, text


def _text_of(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}" if not value.is_integer() else str(int(value))
    if isinstance(value, Mapping):
        return " ".join(
            f"{_words(key)} {text}" for key in sorted(value) if (text := _text_of(value[key]))
        )
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(text for inner in value if (text := _text_of(inner)))
    return " ".join(str(value).replace(";", ",").split())


def _words(name: str) -> str:
    """``releaseYear`` and ``release_year`` read ``release year``."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)
    return " ".join(re.split(r"[\s_\-.]+", spaced)).strip().lower()
