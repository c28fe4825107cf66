"""Who may ask what: an API key is looked up before anything else of a request is read."""

import math
from typing import Any

from fastapi import FastAPI
from redis.asyncio import Redis
from redis.exceptions import ResponseError
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as Connection

from service.keys import Key, Keys, Scope, token_of
from service.problems import MEANINGS, MEDIA_TYPE, problem
from service.store import Store, StoreAwayError

OPEN_TO_ALL = ("/health/", "/docs", "/redoc", "/openapi.json", "/web/")
CHANGING = ("PUT", "PATCH", "DELETE")
SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}
PROBLEM = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
BURST_SECONDS = 10  # what a key may ask for at once, of what it may ask for in a minute

# Generic cell rate algorithm (ITU-T I.371). KEYS: the time, in microseconds, at which all that was asked
# so far is due. ARGV: microseconds a request, and how far ahead of now that time may be. Returns how long to
# wait; 0: go on. By the clock of Redis, which all replicas share.
_TAKE_TURN = """
local now = redis.call('TIME')
now = now[1] * 1000000 + now[2]
local due = math.max(tonumber(redis.call('GET', KEYS[1]) or 0), now) + ARGV[1]
local wait = due - now - ARGV[2]
if wait > 0 then return math.ceil(wait) end
redis.call('SET', KEYS[1], string.format('%.0f', due), 'PX', math.ceil((due - now) / 1000))
return 0
"""


class Access:
    """ASGI middleware that lets a request pass if its key may ask that, and not too often."""

    def __init__(self, app: ASGIApp, *, keys: Keys) -> None:
        """Take the keys that are good."""
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Connection, receive: Receive, send: Send) -> None:
        """Answer 401, 403 or 429, or pass the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"]
        needed = needed_scope(scope["method"], path)
        for_openai = path.startswith("/v1/")
        if needed is None:
            await self._app(scope, receive, send)
            return
        token = token_of(scope["headers"])
        key = self._keys.find(token) if token else None
        if key is None:
            detail = "the API key is not known" if token else "an API key is needed"
            challenge = 'Bearer error="invalid_token"' if token else "Bearer"
            answer = problem(
                401, detail, headers={"WWW-Authenticate": challenge}, for_openai=for_openai
            )
        elif not key.may(needed):
            challenge = f'Bearer error="insufficient_scope", scope="{needed}"'
            detail = f"this needs a key of scope `{needed}`; yours has `{key.scope}`"
            answer = problem(
                403, detail, headers={"WWW-Authenticate": challenge}, for_openai=for_openai
            )
        elif seconds := await seconds_to_wait(scope["app"].state.store, key):
            detail = f"the key may make {key.per_minute} requests a minute"
            answer = problem(429, detail, retry_after=seconds, for_openai=for_openai)
        else:
            scope["key"] = key.name
            await self._app(scope, receive, send)
            return
        await answer(scope, receive, send)


def describe(app: FastAPI) -> None:
    """Make an application's OpenAPI document tell of the keys, and of what is answered without."""
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        document = plain()
        document["components"]["securitySchemes"] = SCHEMES
        for path, operations in document["paths"].items():
            for method, operation in operations.items():
                scope = needed_scope(method.upper(), path)
                if scope is not None:
                    operation["security"] = [{name: []} for name in SCHEMES]
                    for status in (401, 403, 429):
                        answer = {"description": MEANINGS[status], "content": PROBLEM}
                        operation["responses"].setdefault(str(status), answer)
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def needed_scope(method: str, path: str) -> Scope | None:
    """Return the scope that a request needs; None: it needs no key."""
    if path == "/" or path.startswith(OPEN_TO_ALL):
        return None
    if path.startswith("/admin"):
        return "admin"
    if method in CHANGING or (method, path) == ("POST", "/items"):
        return "write"
    return "read"


async def seconds_to_wait(store: Store | None, key: Key) -> int:
    """Return how long a key must wait for its turn, in whole seconds; 0: it has come.

    All replicas count together, in Redis; without it nobody waits.
    """
    if key.per_minute is None or store is None:
        return 0
    each = 60e6 / key.per_minute
    burst = max(each, BURST_SECONDS * 1e6)
    name = f"llmemb:rate:{key.sha256[:16]}"

    async def take_turn(client: Redis) -> int:
        return int(await client.eval(_TAKE_TURN, 1, name, f"{each:.0f}", f"{burst:.0f}"))

    try:
        return math.ceil(await store.run_at(name, take_turn) / 1e6)
    except (StoreAwayError, ResponseError):
        return 0
