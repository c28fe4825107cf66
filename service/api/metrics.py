"""Metrics for Prometheus."""

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST

from service.api.deps import serving_of
from service.problems import responses

router = APIRouter(tags=["operations"])


@router.get(
    "/metrics",
    summary="How is it doing?",
    response_class=PlainTextResponse,
    responses=responses(503),
)
async def metrics(http: Request) -> Response:
    """Return metrics in Prometheus' text format."""
    serving = serving_of(http)
    metrics = serving.metrics
    metrics.catalogue_items.set(len(serving.live.items))
    metrics.waiting_items.set(serving.embedder.waiting)
    metrics.redis_up.set(serving.store.up)
    metrics.hung_threads.set(len(serving.watchdog.hung))
    return Response(metrics.render(), media_type=CONTENT_TYPE_LATEST)
