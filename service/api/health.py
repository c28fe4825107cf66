"""Health: whether the process lives, and whether it can answer."""

from typing import Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from service.api.deps import serving_of
from service.problems import responses

router = APIRouter(prefix="/health", tags=["operations"])


class Live(BaseModel):
    """The process answers."""

    status: Literal["live"] = "live"


class Ready(BaseModel):
    """Requests can be answered."""

    status: Literal["ready"] = "ready"
    bundle: str
    cache: Literal["up", "away"] = Field(
        description="`away`: vectors are kept in this process alone."
    )


@router.get("/live", summary="Does the process live?", responses=responses())
async def live() -> Live:
    """Answer as long as the process can; restart it when this fails."""
    return Live()


@router.get("/ready", summary="Can it answer requests?", responses=responses(503))
async def ready(http: Request) -> Ready:
    """Answer 200 once the model has run; with Redis away the service is ready all the same."""
    serving = serving_of(http)
    return Ready(bundle=serving.bundle.manifest.bundle, cache="up" if serving.store.up else "away")
