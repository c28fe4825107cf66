"""Pieces of requests that several resources share."""

from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    FiniteFloat,
    Tag,
    model_validator,
)
from pydantic_core import PydanticCustomError
from starlette.convertors import PathConvertor, register_url_convertor

from llmemb.catalogue import check_id
from llmemb.errors import ItemError
from service.filters import Value

HEAT = {"title": "Heat", "genres": ["Crime", "Thriller"], "year": 1995, "director": "Michael Mann"}
RONIN = {"title": "Ronin", "genres": ["Action", "Crime"], "year": 1998}


def _checked_id(item_id: str) -> str:
    try:
        return check_id(item_id)
    except ItemError as error:
        raise PydanticCustomError("item_id", "{reason}", {"reason": error.reason}) from error


def _valid_unicode(text: str) -> str:
    # JSON can spell a lone surrogate, and an answer that quotes it could not be encoded.
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise PydanticCustomError("unicode", "the text is not valid Unicode (a lone surrogate)")
    return text


AnyId = Annotated[str, AfterValidator(_valid_unicode)]
"""An id to look up, of whatever form: one that no item can have is merely not known."""

ItemId = Annotated[str, AfterValidator(_checked_id), Field(examples=["heat-1995"])]


class _WholePath(PathConvertor):
    """Matches the rest of a path with line breaks too: `x%0A` is another id than `x`, if one of no item."""

    regex = "(?s:.*)"


register_url_convertor("path", _WholePath())

Attributes = Annotated[
    dict[str, Any],
    Field(
        description="Attribute name to value: text, number, boolean, or lists and objects of those. "
        "Any names; the same ones as in the catalogue work best.",
        examples=[HEAT],
    ),
]

Count = Annotated[
    int, Field(ge=1, description="How many items to answer; fewer only if fewer are eligible.")
]


class Body(BaseModel):
    """A request's body, or an object in it: a field that is not known, or of another type, is an error."""

    model_config = ConfigDict(extra="forbid", strict=True)


class ColdItem(Body):
    """An item given by its attributes; the catalogue need not know it."""

    attributes: Attributes


def _variant(entry: Any) -> str | None:
    if isinstance(entry, str):
        return "<id>"
    return "<item>" if isinstance(entry, dict | ColdItem) else None


# The tags stand in angle brackets so that error paths can do without them.
Entry = Annotated[
    Annotated[AnyId, Tag("<id>")] | Annotated[ColdItem, Tag("<item>")],
    Discriminator(
        _variant,
        custom_error_type="sequence_entry",
        custom_error_message='give an id, or an object such as {"attributes": {"title": "Heat"}}',
    ),
]


class AttributeFilter(Body):
    """What an attribute must be; everything that is given must hold."""

    any: list[Value] | None = Field(
        default=None, description="Has at least one of these values.", examples=[["Crime"]]
    )
    all: list[Value] | None = Field(default=None, description="Has every one of them.")
    none: list[Value] | None = Field(
        default=None, description="Has none of them; an item without the attribute passes."
    )
    gte: FiniteFloat | None = Field(
        default=None, description="One of its numbers is at least this."
    )
    gt: FiniteFloat | None = Field(default=None, description="... greater than this.")
    lte: FiniteFloat | None = Field(default=None, description="... at most this.")
    lt: FiniteFloat | None = Field(default=None, description="... less than this.")

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.model_fields_set:
            raise PydanticCustomError(
                "filter", "say what it must be: any, all, none, gte, gt, lte, lt"
            )
        return self


Filter = Annotated[
    dict[str, AttributeFilter],
    Field(
        description="By attribute, what items must be to be answered; `a.b` is the attribute `b` of the "
        "object `a`. All must hold. Exact, however few pass.",
        examples=[{"genres": {"any": ["Crime", "Thriller"]}, "year": {"gte": 1990, "lt": 2000}}],
    ),
]
