"""The bundle that is served."""

import asyncio
import base64
from collections import Counter
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field

from llmemb.bundle import Manifest
from service.api.deps import serving_of
from service.errors import InvalidFieldError
from service.filters import value_of
from service.problems import responses
from service.serving import Serving

router = APIRouter(tags=["operations"])

MAX_CATEGORIES = 12  # as many as can be told apart by their colour


class Hardware(BaseModel):
    """What the model runs on."""

    device: str = Field(examples=["cpu"])
    dtype: str = Field(examples=["bfloat16"])
    forward_pass: str = Field(
        examples=["fused"], description="`fused`: LLMEmb's own; `transformers`: the library's."
    )
    threads: int = Field(description="CPU threads of the model.")


class Index(BaseModel):
    """How items are searched where there is no filter; what a filter leaves is searched whole."""

    engine: Literal["faiss", "milvus"] = Field(
        description="What searches: FAISS is in this process."
    )
    items: int
    lists: int = Field(description="Inverted lists of FAISS; 0: its every search is exact.")
    probes: dict[int, int] = Field(
        description="How many of the lists are read for at most so many items.",
        examples=[{10: 16, 30: 16, 100: 32, 300: 64}],
    )
    recall: dict[int, float] = Field(
        description="Which share of the best items, so many, is found then, as measured.",
        examples=[{10: 0.996, 30: 0.994, 100: 0.993, 300: 0.991}],
    )


class BundleAnswer(BaseModel):
    """A bundle's manifest, what it runs on, and how its items are searched."""

    manifest: Manifest
    serving: Hardware
    index: Index


@router.get("/bundle", summary="What is served?", responses=responses(503))
async def bundle(http: Request) -> BundleAnswer:
    """Return the manifest: the base model, the prompt, the training data's facts and the metrics."""
    serving = serving_of(http)
    items = serving.live.items
    return BundleAnswer(
        manifest=serving.bundle.manifest,
        serving=Hardware(
            device=serving.device,
            dtype=serving.dtype,
            forward_pass=serving.forward_pass,
            threads=serving.threads,
        ),
        index=Index(
            engine=items.index.engine,
            items=len(items),
            lists=items.index.lists,
            probes=items.index.probes,
            recall=items.index.recall,
        ),
    )


class Categories(BaseModel):
    """An attribute's most frequent values, and which of them each item has."""

    values: list[str]
    of: list[int] = Field(description="Place in `values`, one an item; -1: it has none of them.")


class MapAnswer(BaseModel):
    """The bundle's items in two dimensions: those that the recommender sees alike are neighbours."""

    bundle: str
    ids: list[str]
    places: str = Field(
        description="Little-endian float32 in base64: two numbers an item, within -1 and 1."
    )
    popularity: list[int]
    categories: Categories | None


@router.get("/bundle/map", summary="The catalogue as a map", responses=responses(503))
async def catalogue_map(
    http: Request,
    attribute: Annotated[
        str | None, Query(description="Tell which of its most frequent values each item has.")
    ] = None,
) -> MapAnswer:
    """Return where the bundle's items lie, without those that were deleted since."""
    return await asyncio.to_thread(_map, serving_of(http), attribute)


def _map(serving: Serving, attribute: str | None) -> MapAnswer:
    bundle, here = serving.bundle, serving.live.items.row_of
    rows = [row for row, item_id in enumerate(bundle.catalogue.ids) if item_id in here]
    places = bundle.places[rows].astype("<f4")
    return MapAnswer(
        bundle=bundle.manifest.bundle,
        ids=[bundle.catalogue.ids[row] for row in rows],
        places=base64.b64encode(np.ascontiguousarray(places).tobytes()).decode(),
        popularity=bundle.popularity[rows].tolist(),
        categories=None
        if attribute is None
        else _categories([value_of(bundle.catalogue.attributes[row], attribute) for row in rows]),
    )


def _categories(found: list[Any]) -> Categories:
    """Return the most frequent of the items' first values.

    Raises:
        InvalidFieldError: no item has the attribute.
    """
    labels = [_first(value) for value in found]
    counts = Counter(label for label in labels if label)
    if not counts:
        raise InvalidFieldError("attribute", "no item of the bundle has this attribute")
    values = [label for label, _ in counts.most_common(MAX_CATEGORIES)]
    place = {label: i for i, label in enumerate(values)}
    return Categories(values=values, of=[place.get(label, -1) for label in labels])


def _first(value: Any) -> str:
    while isinstance(value, list):
        value = value[0] if value else None
    return "" if value is None or isinstance(value, dict) else str(value)
