"""Items' vectors from their attributes."""

import base64
from typing import Annotated, Literal

import numpy as np
import orjson
from fastapi import APIRouter, Request, Response
from fastapi import Body as FromBody
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from service.api.deps import check_at_most, serving_of
from service.api.json_route import JSONRoute
from service.api.schemas import HEAT, RONIN, Body, ColdItem, ItemId
from service.problems import BUSY, responses

router = APIRouter(prefix="/items", tags=["items"], route_class=JSONRoute)


class ItemToEmbed(ColdItem):
    """An item to embed."""

    id: ItemId | None = Field(default=None, description="Comes back in the answer; nothing else.")


class EmbedRequest(Body):
    """Items to embed."""

    items: list[ItemToEmbed] = Field(
        min_length=1, description="At most `LLMEMB_MAX_ITEMS` (256 by default)."
    )
    space: Literal["srs", "llm"] = Field(
        default="srs",
        description="`srs`: item vectors that the recommender scores; `llm`: the LLM's own vectors.",
    )
    encoding_format: Literal["float", "base64"] = Field(
        default="float", description="`base64`: the vector's little-endian float32 bytes."
    )
    truncate: bool = Field(
        default=True,
        description="Cut the end of an item that is longer than the model reads, and say so in the "
        "answer; `false`: refuse it.",
    )
    prompt: bool = Field(
        default=False, description="Give the text that the LLM reads of each item as well."
    )


class Embedding(BaseModel):
    """One item's vector."""

    index: int = Field(description="Place of the item in the request.")
    id: str | None
    embedding: list[float] | str
    tokens: int = Field(description="Length of the item's prompt.")
    truncated: bool = Field(description="Whether the prompt was too long and its end was cut off.")
    cached: bool
    prompt: str | None = Field(default=None, description="Given with `prompt`.")


class Usage(BaseModel):
    """Tokens of all items together."""

    prompt_tokens: int
    total_tokens: int


class EmbedAnswer(BaseModel):
    """Vectors, in the order of the request."""

    bundle: str
    dimensions: int
    data: list[Embedding]
    usage: Usage


@router.post(
    "/embed",
    summary="Embed items from their attributes",
    response_model=EmbedAnswer,
    responses=responses(*BUSY),
)
async def embed(
    http: Request,
    request: Annotated[
        EmbedRequest,
        FromBody(
            openapi_examples={
                "films": {
                    "summary": "Two films",
                    "value": {
                        "items": [{"id": "heat-1995", "attributes": HEAT}, {"attributes": RONIN}]
                    },
                },
                "compact": {
                    "summary": "The LLM's own vector, as base64",
                    "value": {
                        "items": [{"attributes": HEAT}],
                        "space": "llm",
                        "encoding_format": "base64",
                    },
                },
            }
        ),
    ],
) -> Response:
    """Return the vector of each item, from the cache where it is known and from the LLM where not.

    Key order, empty values and Unicode spelling of the attributes do not matter. The same attributes
    give the same vector, whatever else is in the request.
    """
    serving = serving_of(http)
    check_at_most(serving.settings.max_items, len(request.items), "items")
    prepared = [
        serving.embedder.prepare(item.attributes, f"items.{i}.attributes")
        for i, item in enumerate(request.items)
    ]
    embedded = await serving.embedder.embed(prepared, truncate=request.truncate)
    vectors = await serving.embedder.vectors(embedded, request.space)
    tokens = sum(item.llm.tokens for item in embedded)
    # Written by orjson from what EmbedAnswer describes: thousands of numbers are not checked again.
    answer = {
        "bundle": serving.bundle.manifest.bundle,
        "dimensions": vectors.shape[1],
        "data": [
            {
                "index": i,
                "id": asked.id,
                "embedding": encoded(vector, request.encoding_format),
                "tokens": item.llm.tokens,
                "truncated": item.llm.truncated,
                "cached": item.cached,
                **({"prompt": serving.embedder.prompt(read)} if request.prompt else {}),
            }
            for i, (asked, read, item, vector) in enumerate(
                zip(request.items, prepared, embedded, vectors, strict=True)
            )
        ],
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
    return Response(orjson.dumps(answer), media_type="application/json")


def encoded(vector: NDArray[np.float32], encoding: Literal["float", "base64"]) -> list[float] | str:
    """Return a vector as JSON numbers, or as its little-endian float32 bytes in base64."""
    if encoding == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    values: list[float] = vector.tolist()
    return values
