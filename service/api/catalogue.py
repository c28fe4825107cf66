"""The live catalogue: look items up, list them, put and delete them while the service runs."""

import asyncio
import re
from typing import Annotated, Literal

from fastapi import APIRouter, Header, HTTPException, Path, Query, Request, Response
from fastapi import Body as FromBody
from pydantic import BaseModel, Field

from service.api.deps import check_at_most, no_item, serving_of
from service.api.item_answer import ItemAnswer, item_answer
from service.api.json_route import NDJSON, ItemsRoute
from service.api.schemas import HEAT, RONIN, Body, ColdItem, ItemId
from service.errors import InvalidFieldError
from service.live import NewItem
from service.problems import BUSY, responses
from service.records import Changed

router = APIRouter(prefix="/items", tags=["catalogue"], route_class=ItemsRoute)

MAX_PAGE = 1000
MAX_SEARCH = 200  # characters

IfMatch = Annotated[
    str | None,
    Header(
        alias="If-Match",
        description="Only if the item has this version, given as in `ETag`; `*`: if it is there.",
        examples=['"7"'],
    ),
]
IfNoneMatch = Annotated[
    Literal["*"] | None,
    Header(alias="If-None-Match", description="`*`: only if the item is not there yet."),
]


class ItemsAnswer(BaseModel):
    """A page of the catalogue, in the order of ids."""

    items: list[ItemAnswer]
    next: str | None = Field(description="`after` of the next page; null: this is the last one.")


class ItemToPut(ColdItem):
    """An item to put into the catalogue."""

    id: ItemId


class PutItemsRequest(Body):
    """Items to put into the catalogue."""

    items: list[ItemToPut] = Field(
        min_length=1, description="At most `LLMEMB_MAX_ITEMS` (256 by default)."
    )


class PutAnswer(BaseModel):
    """What became of an item that was put."""

    id: str
    version: int = Field(description="Its version now, which grows with every change.")
    outcome: Literal["created", "changed", "same"] = Field(
        description="`same`: the catalogue had it with these attributes already."
    )


class PutItemsAnswer(BaseModel):
    """What became of the items, in the order of the request."""

    items: list[PutAnswer]


@router.post(
    "",
    summary="Put many items",
    responses=responses(*BUSY),
    openapi_extra={"requestBody": {"content": {NDJSON: {"schema": {"type": "string"}}}}},
)
async def put_many(
    http: Request,
    request: Annotated[
        PutItemsRequest,
        FromBody(
            openapi_examples={
                "films": {
                    "summary": "Two films; as NDJSON, each in a line of its own",
                    "value": {
                        "items": [
                            {"id": "heat-1995", "attributes": HEAT},
                            {"id": "ronin-1998", "attributes": RONIN},
                        ]
                    },
                }
            }
        ),
    ],
) -> PutItemsAnswer:
    """Add items or replace them, and answer once that is on disk; none is put if one is not valid."""
    serving = serving_of(http)
    check_at_most(serving.settings.max_items, len(request.items), "items")
    changed = await serving.live.put(
        [
            NewItem(one.id, one.attributes, f"items.{i}.attributes")
            for i, one in enumerate(request.items)
        ]
    )
    return PutItemsAnswer(
        items=[
            _put_answer(one.id, became) for one, became in zip(request.items, changed, strict=True)
        ]
    )


@router.get("", summary="List items", responses=responses(503))
async def list_items(
    http: Request,
    after: Annotated[str, Query(description="The `next` of the page before.")] = "",
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 100,
    search: Annotated[
        str | None,
        Query(
            min_length=1,
            max_length=MAX_SEARCH,
            description="Only items whose id or texts hold this, those used most in training first, and "
            "no further page.",
        ),
    ] = None,
) -> ItemsAnswer:
    """Return items in the order of their ids; one that is there all the while is listed once."""
    serving = serving_of(http)
    if search is not None:
        ids = await asyncio.to_thread(serving.live.items.search, search, limit)
    else:
        ids = await asyncio.to_thread(serving.live.items.page, after, limit + 1)
    page = [found for one in ids[:limit] if (found := item_answer(serving, one))]
    return ItemsAnswer(items=page, next=ids[limit - 1] if len(ids) > limit else None)


# An id may hold slashes.
@router.get("/{item_id:path}", summary="Look an item up", responses=responses(404, 503))
async def get_item(http: Request, response: Response, item_id: str) -> ItemAnswer:
    """Return an item's attributes, its popularity and its version, which is in `ETag` too."""
    found = item_answer(serving_of(http), item_id)
    if found is None:
        raise no_item(item_id)
    response.headers["ETag"] = _etag(found.version)
    return found


@router.put(
    "/{item_id:path}",
    summary="Put an item",
    responses={201: {"model": PutAnswer, "description": "It is new."}, **responses(412, *BUSY)},
)
async def put_item(
    http: Request,
    response: Response,
    item_id: Annotated[ItemId, Path()],
    item: ColdItem,
    if_match: IfMatch = None,
    if_none_match: IfNoneMatch = None,
) -> PutAnswer:
    """Add an item or replace it, and answer once that is on disk; it can be recommended here at once.

    Other replicas follow within a second. The same attributes again change nothing.
    """
    expected = _expected(if_match, if_none_match)
    new = NewItem(item_id, item.attributes, "attributes", expected)
    (changed,) = await serving_of(http).live.put([new])
    response.headers["ETag"] = _etag(changed.version)
    if changed.outcome == "conflict":
        raise _conflict(item_id, changed)
    if changed.outcome == "created":
        response.status_code = 201
    return _put_answer(item_id, changed)


@router.delete(
    "/{item_id:path}", summary="Delete an item", status_code=204, responses=responses(404, 412, 503)
)
async def delete_item(http: Request, item_id: str, if_match: IfMatch = None) -> None:
    """Delete an item, one of the bundle too, and answer once that is on disk.

    It is not recommended here from then on, and nowhere within a second.
    """
    changed = await serving_of(http).live.delete(item_id, _expected(if_match, None))
    if changed.outcome == "conflict":
        raise _conflict(item_id, changed)
    if changed.outcome == "absent":
        raise no_item(item_id)


def _put_answer(item_id: str, changed: Changed) -> PutAnswer:
    facts = {"id": item_id, "version": changed.version, "outcome": changed.outcome}
    return PutAnswer.model_validate(facts)


def _etag(version: int) -> str:
    return f'"{version}"'


def _expected(if_match: str | None, if_none_match: str | None) -> str:
    """Return what :class:`~service.records.Change` expects, from the conditions of RFC 9110."""
    if if_none_match:
        return "-"
    if if_match is None or if_match == "*":
        return if_match or ""
    if not (found := re.fullmatch(r'"(\d{1,16})"', if_match)):
        raise InvalidFieldError("If-Match", 'give one version as in ETag, for example "7", or *')
    return found[1]


def _conflict(item_id: str, changed: Changed) -> HTTPException:
    detail = f"item {item_id!r} is not as expected: its version is {changed.version}"
    return HTTPException(412, detail, headers={"ETag": _etag(changed.version)})
