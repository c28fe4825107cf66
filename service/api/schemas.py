"""Pieces of requests that several resources share."""

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from llmemb.catalogue import check_id
from llmemb.errors import ItemError

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
    """A request's body, or an object in it: a field that is not known is an error."""

    model_config = ConfigDict(extra="forbid")


class ColdItem(Body):
    """An item given by its attributes; the catalogue need not know it."""

    attributes: Attributes
