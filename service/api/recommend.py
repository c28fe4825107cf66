"""Recommendations: the next items for a sequence."""

import asyncio
import time
from collections import Counter
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from fastapi import Body as FromBody
from pydantic import BaseModel, Field

from service.api.deps import (
    check_at_most,
    conditions_of,
    naming_filter,
    prepared_sequence,
    serving_of,
    trial_of,
)
from service.api.item_answer import ItemAnswer, item_answer
from service.api.json_route import JSONRoute
from service.api.schemas import RONIN, AnyId, Body, Count, Entry, Filter
from service.problems import responses
from service.ranking import Wanted
from service.serving import Serving
from service.trial import Trial

router = APIRouter(tags=["recommendations"], route_class=JSONRoute)

MAX_BOOST = 1000


def _is_none(value: Any) -> bool:
    return value is None


class RecommendRequest(Body):
    """A sequence of items, and how many to recommend after it."""

    sequence: list[Entry] = Field(
        description="Ids and cold items, oldest first. Empty, or with no id that is known: the most "
        "popular items are answered. At most `LLMEMB_MAX_SEQUENCE` entries (1000 by default)."
    )
    user: AnyId | None = Field(
        default=None,
        description="Who asks, by whatever name; not kept. Where a second bundle is on trial, it tells "
        "whether that one answers; the answer's `bundle` says which one did.",
    )
    k: Count = 10
    exclude_seen: bool = Field(default=True, description="Leave out the items of the sequence.")
    exclude: list[AnyId] = Field(
        default=[], description="Ids to leave out as well, for example what is out of stock."
    )
    filter: Filter = Field(default={})
    min_cold: int = Field(
        default=0,
        ge=0,
        description="So many of the items at least have no interaction in training, if there are so "
        "many: the best of them take the last places of others.",
    )
    tail_boost: float = Field(
        default=0,
        ge=0,
        le=MAX_BOOST,
        description="Added to the score of an item without interactions in training; of one with n of "
        "them, divided by 1 + ln(1 + n).",
    )
    freshness_boost: float = Field(
        default=0,
        ge=0,
        le=MAX_BOOST,
        description="Added to the score of an item put just now, and half of it for one put "
        "`LLMEMB_FRESHNESS_DAYS` (7) ago; nothing for the bundle's own.",
    )
    explain: bool = Field(
        default=False, description="Tell which entries of the sequence drove each item."
    )
    details: bool = Field(
        default=False, description="Tell of each item what `GET /items/{item_id}` does."
    )
    diversity: float = Field(
        default=0,
        ge=0,
        le=1,
        description="Weight of being unlike the items above (maximal marginal relevance); 0: by score "
        "alone.",
    )


class Driver(BaseModel):
    """An entry of the sequence that drove a recommendation."""

    place: int = Field(description="Where in the sequence it stands, from 0.")
    id: str | None = Field(description="Null: a cold item.")
    change: float = Field(description="What the score loses without it.")


class RecommendedItem(BaseModel):
    """An item, and how it came to be recommended."""

    id: str
    score: float = Field(
        description="`model`: inner product with the user vector; `popular`: training interactions."
    )
    rank: int = Field(description="1 for the first.")
    source: Literal["model", "popular"]
    because: list[Driver] | None = Field(
        default=None,
        exclude_if=_is_none,
        description="Given with `explain`; empty for popular items.",
    )
    item: ItemAnswer | None = Field(
        default=None, exclude_if=_is_none, description="Given with `details`."
    )


class RecommendAnswer(BaseModel):
    """The next items, best first."""

    bundle: str
    items: list[RecommendedItem]
    unknown: list[str] = Field(description="Ids of the sequence that the catalogue lacks.")
    eligible: int | None = Field(
        default=None,
        exclude_if=_is_none,
        description="Items that pass the filter, if one was given; 0: none can.",
    )


class RecommendBatchRequest(Body):
    """Requests to answer together."""

    requests: list[RecommendRequest] = Field(
        min_length=1, description="At most `LLMEMB_MAX_BATCH` (256 by default)."
    )


class RecommendBatchAnswer(BaseModel):
    """The answers, in the order of the requests."""

    results: list[RecommendAnswer]


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
    return await _answered(serving_of(http), trial_of(http), request, "")


@router.post(
    "/recommend/batch",
    summary="Recommend for many sequences",
    responses=responses(413, 429, 503),
)
async def recommend_batch(http: Request, request: RecommendBatchRequest) -> RecommendBatchAnswer:
    """Answer many requests at once, each as it would be answered alone."""
    serving, trial = serving_of(http), trial_of(http)
    check_at_most(serving.settings.max_batch, len(request.requests), "requests")
    answers = [
        _answered(serving, trial, one, f"requests.{i}.") for i, one in enumerate(request.requests)
    ]
    return RecommendBatchAnswer(results=await asyncio.gather(*answers))


async def _answered(
    serving: Serving, trial: Trial | None, request: RecommendRequest, prefix: str
) -> RecommendAnswer:
    """Answer one request by the bundle that its user is given."""
    if trial is None:
        return await _measured(serving, "main", request, prefix)
    on_trial = partial(_measured, trial.serving, "trial", request, prefix)
    if trial.answers(request.user):
        return await on_trial()
    answer = await _measured(serving, "main", request, prefix)
    if trial.share == 0:

        async def ids() -> list[str]:
            return [item.id for item in (await on_trial()).items]

        trial.look_on([item.id for item in answer.items], ids)
    return answer


async def _measured(
    serving: Serving, arm: str, request: RecommendRequest, prefix: str
) -> RecommendAnswer:
    """Answer one request, and count it."""
    metrics = serving.metrics
    with metrics.recommend_seconds.labels(arm).time():
        answer = await _recommended(serving, request, prefix)
    items = serving.live.items
    ids = [item.id for item in answer.items]
    for kind, count in Counter(map(items.kind, ids)).items():
        metrics.recommended.labels(arm, kind).inc(count)
    source = "model" if any(item.source == "model" for item in answer.items) else "popular"
    metrics.recommendations.labels(arm, source).inc()
    if arm == "main":
        _count(serving, request, answer, ids)
    return answer


def _count(
    serving: Serving, request: RecommendRequest, answer: RecommendAnswer, ids: list[str]
) -> None:
    """Tell what users were shown, and what was known of them."""
    metrics = serving.metrics
    metrics.coverage.add(ids)
    now = time.time()
    for item_id in ids:
        record = serving.live.record(item_id)
        if record is not None:
            metrics.new_item_age.observe(max(0.0, now - record.updated))
    given = [entry for entry in request.sequence if isinstance(entry, str)]
    unknown = set(answer.unknown)
    missing = sum(entry in unknown for entry in given)
    for kind, count in (
        ("known", len(given) - missing),
        ("unknown", missing),
        ("cold", len(request.sequence) - len(given)),
    ):
        metrics.sequence_entries.labels(kind).inc(count)


async def _recommended(serving: Serving, request: RecommendRequest, prefix: str) -> RecommendAnswer:
    """Answer one request; ``prefix`` stands before the names of its fields."""
    limits = serving.settings
    check_at_most(limits.max_k, request.k, f"{prefix}k")
    check_at_most(limits.max_exclude, len(request.exclude), f"{prefix}exclude")
    sequence = prepared_sequence(serving, request.sequence, f"{prefix}sequence")
    wanted = Wanted(
        k=request.k,
        conditions=conditions_of(serving, request.filter, f"{prefix}filter"),
        min_cold=request.min_cold,
        tail_boost=request.tail_boost,
        freshness_boost=request.freshness_boost,
        freshness_days=limits.freshness_days,
        diversity=request.diversity,
    )
    with naming_filter(f"{prefix}filter"):
        found = await serving.recommender.recommend(
            sequence,
            wanted,
            exclude_seen=request.exclude_seen,
            exclude=request.exclude,
            explain=request.explain,
        )
    return RecommendAnswer(
        bundle=serving.bundle.manifest.bundle,
        items=[
            RecommendedItem(
                id=item_id,
                score=score,
                rank=i + 1,
                source=found.source,
                because=_drivers(request, found.because[i]) if found.because else None,
                item=item_answer(serving, item_id) if request.details else None,
            )
            for i, (item_id, score) in enumerate(found.items)
        ],
        unknown=found.unknown,
        eligible=found.eligible if request.filter else None,
    )


def _drivers(request: RecommendRequest, found: list[tuple[int, float]]) -> list[Driver]:
    entries = request.sequence
    return [
        Driver(
            place=place, id=one if isinstance(one := entries[place], str) else None, change=change
        )
        for place, change in found
    ]
