"""What is similar to an item, and which of its attributes place it where it is."""

import asyncio
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Request
from fastapi import Body as FromBody
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from service.api.deps import (
    check_at_most,
    conditions_of,
    naming_filter,
    no_item,
    prepared_sequence,
    serving_of,
)
from service.api.json_route import JSONRoute
from service.api.schemas import RONIN, ColdItem, Count, Entry, Filter
from service.filters import Condition
from service.index import unit_length
from service.live_items import LiveItems
from service.problems import BUSY, responses
from service.serving import Serving

router = APIRouter(prefix="/items", tags=["items"], route_class=JSONRoute)


class SimilarItem(BaseModel):
    """A neighbour of an item."""

    id: str
    score: float = Field(description="Cosine similarity of the item vectors.")
    attributes: dict[str, Any]


class SimilarAnswer(BaseModel):
    """The nearest items, nearest first."""

    bundle: str
    items: list[SimilarItem]


class ExplainRequest(ColdItem):
    """An item given by its attributes, and the sequence after which it would be recommended."""

    sequence: list[Entry] = Field(
        min_length=1, description="Ids and cold items, oldest first.", examples=[["heat-1995"]]
    )


class WithoutAttribute(BaseModel):
    """What becomes of an item without one of its attributes."""

    attribute: str
    score: float
    rank: int
    change: float = Field(description="What the score loses without it; negative: gains.")


class ExplainAnswer(BaseModel):
    """Where an item stands, and what each attribute does for that."""

    bundle: str
    score: float = Field(description="Inner product with the user vector.")
    rank: int = Field(description="1: no item of the catalogue scores higher.")
    without: list[WithoutAttribute] = Field(
        description="Those that lift the item most first; an item's only readable one is left out."
    )


class SimilarRequest(ColdItem):
    """An item given by its attributes, to find items like it."""

    k: Count = 10
    filter: Filter = Field(default={})


@router.post(
    "/explain",
    summary="Which attributes place an item where it is",
    responses=responses(*BUSY),
)
async def explain(http: Request, request: ExplainRequest) -> ExplainAnswer:
    """Return the item's score and rank after a sequence, and what they are without each attribute."""
    serving = serving_of(http)
    limits = serving.settings
    sequence = prepared_sequence(serving, request.sequence, "sequence")
    check_at_most(limits.max_items - 1, len(request.attributes), "attributes")
    embedder = serving.embedder
    variants = {"": embedder.prepare(request.attributes, "attributes")}
    for name in request.attributes:
        rest = {other: value for other, value in request.attributes.items() if other != name}
        variant = embedder.prepare(rest, f"attributes.{name}")
        if embedder.readable(variant):
            variants[name] = variant
    found = await serving.recommender.standing(sequence, list(variants.values()))
    (score, rank), *without = found
    parts = [
        WithoutAttribute(attribute=name, score=one, rank=its_rank, change=score - one)
        for name, (one, its_rank) in zip(list(variants)[1:], without, strict=True)
    ]
    return ExplainAnswer(
        bundle=serving.bundle.manifest.bundle,
        score=score,
        rank=rank,
        without=sorted(parts, key=lambda part: -part.change),
    )


@router.post(
    "/similar", summary="Find items like one given by its attributes", responses=responses(*BUSY)
)
async def similar_to_attributes(
    http: Request,
    request: Annotated[
        SimilarRequest,
        FromBody(openapi_examples={"film": {"value": {"attributes": RONIN, "k": 5}}}),
    ],
) -> SimilarAnswer:
    """Return the items of the catalogue whose vectors point the same way."""
    serving = serving_of(http)
    check_at_most(serving.settings.max_k, request.k, "k")
    item = serving.embedder.prepare(request.attributes, "attributes")
    conditions = conditions_of(serving, request.filter, "filter")
    vectors = await serving.embedder.adapt(await serving.embedder.embed([item]))
    return await _similar(serving, serving.live.items, vectors[0], request.k, conditions=conditions)


@router.get(
    "/{item_id:path}/similar",
    summary="Find items like one of the catalogue",
    responses=responses(404, 503),
)
async def similar_to_item(http: Request, item_id: str, k: Count = 10) -> SimilarAnswer:
    """Return the items whose vectors point the same way, the item itself left out."""
    serving = serving_of(http)
    check_at_most(serving.settings.max_k, k, "k")
    items = serving.live.items
    row = items.row_of.get(item_id)
    if row is None:
        raise no_item(item_id)
    return await _similar(serving, items, items.index.vectors([row])[0], k, excluded=(row,))


async def _similar(
    serving: Serving,
    items: LiveItems,
    vector: NDArray[np.float32],
    k: int,
    *,
    excluded: tuple[int, ...] = (),
    conditions: Mapping[str, Condition] | None = None,
) -> SimilarAnswer:
    def search() -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        return items.similar.search(unit_length(vector), k, excluded, items.among(conditions or {}))

    with naming_filter("filter"):
        rows, scores = await asyncio.to_thread(search)
    return SimilarAnswer(
        bundle=serving.bundle.manifest.bundle,
        items=[
            SimilarItem(id=items.id_at(row), score=score, attributes=items.attributes_at(row))
            for row, score in zip(rows.tolist(), scores.tolist(), strict=True)
        ],
    )
