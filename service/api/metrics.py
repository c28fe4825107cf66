"""Metrics for Prometheus."""

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST

from service.api.deps import serving_of
from service.problems import responses

router = APIRouter(tags=["operations"])


@router.get("/metrics", summary="How is it doing?", responses=responses(503))
async def metrics(http: Request) -> Response:
    """Return metrics in Prometheus' text format."""
    return Response(serving_of(http).metrics.render(), media_type=CONTENT_TYPE_LATEST)
