"""For operators: another bundle, put to work while requests come in."""

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from service.api.deps import serving_of
from service.api.schemas import Body
from service.problems import responses
from service.reload import Served
from service.settings import BUNDLE_NAME

router = APIRouter(prefix="/admin", tags=["operations"])


class ReloadRequest(Body):
    """Which bundle to put to work."""

    bundle: str | None = Field(
        default=None,
        pattern=BUNDLE_NAME,
        description="Name of a folder beside the bundle that the service was started with; null: that "
        "one itself, read again.",
        examples=["2026-11-21"],
    )


class BundleChange(BaseModel):
    """Which bundle is at work now."""

    bundle: str
    before: str = Field(description="The one that was; kept, for `/admin/rollback`.")
    seconds: float = Field(description="What that took; requests were answered all the while.")


@router.post("/reload", summary="Put a bundle to work", responses=responses(409, 503))
async def reload(http: Request, request: ReloadRequest) -> BundleChange:
    """Load a bundle beside the one at work, check it, let it catch up, and swap the two at once.

    It is refused if a file is missing or changed, if its model does not give the vectors that it holds,
    or if it is worse on held-out interactions than `LLMEMB_RELOAD_QUALITY` allows.
    """
    before = serving_of(http).bundle.manifest.bundle
    served: Served = http.app.state.served
    seconds = await served.reload(request.bundle)
    return BundleChange(
        bundle=serving_of(http).bundle.manifest.bundle, before=before, seconds=round(seconds, 3)
    )


@router.post("/rollback", summary="Go back to the bundle before", responses=responses(409, 503))
async def rollback(http: Request) -> BundleChange:
    """Put the bundle to work that was before the last reload; it has followed the catalogue since."""
    before = serving_of(http).bundle.manifest.bundle
    served: Served = http.app.state.served
    await served.roll_back()
    return BundleChange(bundle=serving_of(http).bundle.manifest.bundle, before=before, seconds=0.0)
