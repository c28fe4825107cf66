"""The ASGI application: routes, errors and limits around one :class:`~service.serving.Serving`."""

import contextlib
from collections.abc import AsyncIterator

from fastapi import FastAPI

import llmemb
from service import problems
from service.api import bundle, health, items, metrics, openai, recommend
from service.intake import Intake
from service.serving import open_serving
from service.settings import Settings

DESCRIPTION = """
Embeds items from their attributes and recommends the next items for a sequence. An item that was
never seen before needs no training: give its attributes wherever an id can stand.

Errors are problem details (RFC 9457); where a field is to blame, `errors` names it.
"""

TAGS = [
    {"name": "items", "description": "Vectors of items, the catalogue, and what is similar."},
    {"name": "recommendations", "description": "The next items for a sequence of items."},
    {
        "name": "OpenAI-compatible",
        "description": "Texts to vectors, for clients that speak that API.",
    },
    {"name": "operations", "description": "Is it well, and what does it serve?"},
]


def create_app(settings: Settings) -> FastAPI:
    """Return the application; its lifespan loads the bundle and raises ``LLMEmbError`` if it cannot."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_serving(settings) as serving:
            app.state.serving = serving
            yield
            app.state.serving = None

    app = FastAPI(
        title="LLMEmb",
        summary="Item embeddings from an LLM for sequential recommenders.",
        description=DESCRIPTION,
        version=llmemb.__version__,
        openapi_tags=TAGS,
        lifespan=lifespan,
    )
    app.state.serving = None
    app.add_middleware(
        Intake, max_requests=settings.max_requests, max_body_bytes=settings.max_body_bytes
    )
    problems.install(app)
    for resource in (items, recommend, openai, health, bundle, metrics):
        app.include_router(resource.router)
    return app
