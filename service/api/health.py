"""Health: whether the process lives, and whether it can answer."""

from typing import Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from service.api.deps import serving_of
from service.errors import UnavailableError
from service.problems import responses
from service.traffic import Traffic

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
    catalogue: Literal["durable", "kept", "away"] = Field(
        description="`durable`: a change of the catalogue is on disk once it is acknowledged; `kept`: "
        "Redis has it, and keeps it as it is set up to; `away`: nothing can be changed now."
    )


@router.get("/live", summary="Does the process live?", responses=responses())
async def live() -> Live:
    """Answer as long as the process can; restart it when this fails."""
    return Live()


@router.get("/ready", summary="Can it answer requests?", responses=responses(503))
async def ready(http: Request) -> Ready:
    """Answer 200 once the model has run; with Redis away the service is ready all the same.

    503 while it ends, and while the thread of the model hangs.
    """
    serving = serving_of(http)
    traffic: Traffic = http.app.state.traffic
    if traffic.draining:
        raise UnavailableError("the service is stopping")
    for name, seconds in serving.watchdog.hung.items():
        raise UnavailableError(f"the {name} has not answered for {seconds:.0f} seconds")
    return Ready(
        bundle=serving.bundle.manifest.bundle,
        cache="up" if serving.store.up else "away",
        catalogue=serving.live.guarantee,
    )
