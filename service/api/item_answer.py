"""What the catalogue knows of an item, as several resources answer it."""

from typing import Any, Literal

from pydantic import BaseModel, Field

from service.api.schemas import HEAT
from service.serving import Serving


class ItemAnswer(BaseModel):
    """What the catalogue knows of an item."""

    id: str
    attributes: dict[str, Any] = Field(examples=[HEAT])
    popularity: int = Field(description="Interactions with it in the training data.")
    kind: Literal["head", "tail", "cold"] = Field(
        description="`head`: of the fifth with the most interactions; `cold`: it has none."
    )
    version: int = Field(description="Of the catalogue when the item was put; 0: the bundle's own.")
    updated: float | None = Field(
        description="When it was put, in seconds since 1970; null: it is the bundle's own."
    )


def item_answer(serving: Serving, item_id: str) -> ItemAnswer | None:
    """Return what is known of an item; None: the catalogue lacks it."""
    items = serving.live.items
    row = items.row_of.get(item_id)
    if row is None:
        return None
    record = serving.live.record(item_id)
    return ItemAnswer(
        id=item_id,
        attributes=items.attributes_at(row),
        popularity=items.trained.get(item_id, 0),
        kind=items.kind(item_id),
        version=record.version if record else 0,
        updated=record.updated if record else None,
    )
