"""Recommendations: the next items for a sequence."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from fastapi import Body as FromBody
from pydantic import BaseModel, Discriminator, Field, Tag

from service.api.deps import check_at_most, serving_of
from service.api.json_route import JSONRoute
from service.api.schemas import RONIN, AnyId, Body, ColdItem, Count
from service.problems import responses

router = APIRouter(tags=["recommendations"], route_class=JSONRoute)


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


class RecommendRequest(Body):
    """A sequence of items, and how many to recommend after it."""

    sequence: list[Entry] = Field(
        description="Ids and cold items, oldest first. Empty, or with no id that is known: the most "
        "popular items are answered. At most `LLMEMB_MAX_SEQUENCE` entries (1000 by default)."
    )
    k: Count = 10
    exclude_seen: bool = Field(default=True, description="Leave out the items of the sequence.")
    exclude: list[AnyId] = Field(
        default=[], description="Ids to leave out as well, for example what is out of stock."
    )


class RecommendedItem(BaseModel):
    """An item, and how it came to be recommended."""

    id: str
    score: float = Field(
        description="`model`: inner product with the user vector; `popular`: training interactions."
    )
    source: Literal["model", "popular"]


class RecommendAnswer(BaseModel):
    """The next items, best first."""

    bundle: str
    items: list[RecommendedItem]
    unknown: list[str] = Field(description="Ids of the sequence that the catalogue lacks.")


@router.post(
    "/recommend",
    summary="Recommend the next items for a sequence",
    responses=responses(413, 429, 503),
)
async def recommend(
    http: Request,
    request: Annotated[
        RecommendRequest,
        FromBody(
            openapi_examples={
                "known": {
                    "summary": "Films of the catalogue",
                    "value": {"sequence": ["heat-1995", "collateral-2004"], "k": 5},
                },
                "cold": {
                    "summary": "A film that the catalogue does not know",
                    "value": {"sequence": ["heat-1995", {"attributes": RONIN}], "k": 5},
                },
            }
        ),
    ],
) -> RecommendAnswer:
    """Return exactly `k` items while as many are eligible; the most recent part of a long sequence counts."""
    serving = serving_of(http)
    limits = serving.settings
    check_at_most(limits.max_k, request.k, "k")
    check_at_most(limits.max_sequence, len(request.sequence), "sequence")
    check_at_most(limits.max_exclude, len(request.exclude), "exclude")
    sequence = [
        serving.embedder.prepare(entry.attributes, f"sequence.{i}.attributes")
        if isinstance(entry, ColdItem)
        else entry
        for i, entry in enumerate(request.sequence)
    ]
    found = await serving.recommender.recommend(
        sequence, k=request.k, exclude_seen=request.exclude_seen, exclude=request.exclude
    )
    return RecommendAnswer(
        bundle=serving.bundle.manifest.bundle,
        items=[
            RecommendedItem(id=item_id, score=score, source=found.source)
            for item_id, score in found.items
        ],
        unknown=found.unknown,
    )
