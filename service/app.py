"""The ASGI application: routes, errors and limits around one :class:`~service.serving.Serving`."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi_offline import FastAPIOffline

import llmemb
from service import access, playground, problems
from service.access import Access
from service.api import admin, bundle, catalogue, health, items, metrics, openai, recommend, similar
from service.intake import Intake
from service.keys import Keys
from service.observe import Observe
from service.reload import Served
from service.serving import open_machine
from service.settings import Settings, is_loopback
from service.telemetry import Metrics
from service.traces import Traces
from service.traffic import Traffic

DESCRIPTION = """
Embeds items from their attributes and recommends the next items for a sequence. An item that was
never seen before needs no training: give its attributes wherever an id can stand.

Errors are problem details (RFC 9457); where a field is to blame, `errors` names it.
"""

TAGS = [
    {"name": "items", "description": "Vectors of items, and what is similar."},
    {"name": "catalogue", "description": "Items that come, change and go while the service runs."},
    {"name": "recommendations", "description": "The next items for a sequence of items."},
    {
        "name": "OpenAI-compatible",
        "description": "Texts to vectors, for clients that speak that API.",
    },
    {"name": "operations", "description": "Is it well, and what does it serve?"},
]


def create_app(settings: Settings) -> FastAPI:
    """Return the application; its lifespan loads the bundle and raises ``LLMEmbError`` if it cannot.

    Raises:
        SettingsError: the file of keys cannot be used, or an extra is missing.
    """
    traces = Traces() if settings.traces else None
    registry = Metrics(traces)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_machine(settings, registry) as machine:
            app.state.store = machine.store
            app.state.served = served = Served(machine)
            try:
                await served.open()
                yield
            finally:
                await served.close()
                if traces:
                    await asyncio.to_thread(traces.close)

    app = FastAPIOffline(
        title="LLMEmb",
        summary="Item embeddings from an LLM for sequential recommenders.",
        description=DESCRIPTION,
        version=llmemb.__version__,
        openapi_tags=TAGS,
        lifespan=lifespan,
        static_url="/docs/static",
    )
    app.state.served = app.state.store = None
    app.state.traffic = Traffic()
    app.add_middleware(
        Intake,
        traffic=app.state.traffic,
        max_requests=settings.max_requests,
        max_body_bytes=settings.max_body_bytes,
        body_seconds=settings.body_seconds,
    )
    problems.install(app)
    keys = Keys(settings.keys_file) if settings.keys_file else None
    if keys:
        app.add_middleware(Access, keys=keys)
        access.describe(app)
    if settings.cors_origins:
        # Outside of the keys: a browser asks first, without one, whether it may ask.
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["ETag", "Retry-After"],
        )
    app.add_middleware(Observe, metrics=registry, traces=traces)
    # Similar before the catalogue, where an id, which may hold slashes, would swallow `/similar`.
    resources = [items, similar, catalogue, recommend, openai, health, bundle, metrics]
    safe = bool(keys) or is_loopback(settings.host)
    if settings.admin or (settings.admin is None and safe):
        resources.append(admin)
    # As they are, and first: a router that is included costs each request a sixth of its time.
    playground.install(app)
    ours = [route for resource in resources for route in resource.router.routes]
    app.router.routes[:0] = ours
    return app
