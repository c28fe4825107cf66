"""Errors as RFC 9457 problem details: what each kind of error answers, and how OpenAPI tells of it."""

import json
from collections.abc import Sequence
from functools import partial
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import Response
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.routing import Match

from service.errors import InvalidFieldError, OverloadedError, RefusedError, UnavailableError

MEDIA_TYPE = "application/problem+json"
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
MAX_ERRORS = 20  # named in one answer; a bad body may hold thousands

BUSY = (413, 429, 503)  # what a request that needs the model may be answered

MEANINGS = {
    401: "No API key, or one that is not known.",
    403: "The API key may not do this.",
    404: "There is no such item.",
    409: "It is not done, and the service goes on as before; `detail` says why.",
    412: "The item has another version than is expected, or is there already; see `ETag`.",
    413: "The body is larger than `LLMEMB_MAX_BODY_BYTES`.",
    422: "The request cannot be used; `errors` names the fields.",
    429: "Too much work is waiting; come back after `Retry-After` seconds.",
    500: "A bug; the log has its traceback.",
    503: "Not ready; come back after `Retry-After` seconds.",
}

_ANSWERED = (
    RequestValidationError,
    InvalidFieldError,
    OverloadedError,
    RefusedError,
    UnavailableError,
    HTTPException,
)


class FieldProblem(BaseModel):
    """What is wrong with one field of a request."""

    field: str = Field(examples=["items.0.attributes.title"])
    reason: str = Field(examples=["nan is not a number that JSON can hold"])


class Problem(BaseModel):
    """An error, as RFC 9457 has it."""

    type: str = Field(default="about:blank", description="`title` and `status` say the kind.")
    title: str = Field(examples=["Unprocessable Content"])
    status: int = Field(examples=[422])
    detail: str = Field(examples=["items.0.attributes.title: nan is not a number"])
    errors: list[FieldProblem] | None = Field(
        default=None, description="The fields to blame, where there are any."
    )
    error: dict[str, str | None] | None = Field(
        default=None, description="Under `/v1` alone: the same as OpenAI's clients look for it."
    )


def problem(
    status: int,
    detail: str,
    *,
    errors: Sequence[FieldProblem] = (),
    retry_after: int | None = None,
    headers: dict[str, str] | None = None,
    for_openai: bool = False,
) -> Response:
    """Return a problem as a response.

    Args:
        status: the HTTP status.
        detail: what went wrong, in a sentence.
        errors: the fields to blame.
        retry_after: seconds.
        headers: more of them.
        for_openai: say it a second time in the form that OpenAI's clients show to their users.
    """
    content = Problem(
        title=_title(status), status=status, detail=detail, errors=list(errors) or None
    )
    if for_openai:
        param = errors[0].field if errors else None
        content.error = {"message": detail, "type": content.title, "param": param}
    headers = {**(headers or {})}
    if retry_after is not None:
        headers["Retry-After"] = str(retry_after)
    # ASCII: a message may quote text from the request that is not valid Unicode.
    body = json.dumps(content.model_dump(exclude_none=True), ensure_ascii=True).encode()
    return Response(body, status, headers, MEDIA_TYPE)


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return what a route's ``responses`` says of these errors, and of 422 and 500."""
    return {
        status: {"model": Problem, "description": MEANINGS[status]}
        for status in sorted({*statuses, 422, 500})
    }


def install(app: FastAPI) -> None:
    """Make an application answer its errors as problems, and say so in its OpenAPI document."""
    for kind in _ANSWERED:
        app.add_exception_handler(kind, _answer)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]


def _title(status: int) -> str:
    # Spelt as RFC 9110 does; Python's own names for these two are of its predecessor.
    later = {413: "Content Too Large", 422: "Unprocessable Content"}
    return later.get(status) or HTTPStatus(status).phrase


async def _answer(request: Request, error: Exception) -> Response:
    answer = partial(problem, for_openai=request.url.path.startswith("/v1/"))
    match error:
        case RequestValidationError():
            errors = [
                FieldProblem(field=_field(found["loc"]), reason=_reason(found))
                for found in error.errors()[:MAX_ERRORS]
            ]
            return answer(422, f"{errors[0].field}: {errors[0].reason}", errors=errors)
        case InvalidFieldError():
            errors = [FieldProblem(field=error.field, reason=error.reason)]
            return answer(422, str(error), errors=errors)
        case OverloadedError():
            return answer(429, str(error), retry_after=error.retry_after)
        case RefusedError():
            return answer(409, str(error))
        case UnavailableError():
            return answer(503, str(error), retry_after=error.retry_after)
        case HTTPException() if error.status_code == 400:
            # FastAPI's word for a body that is not even text.
            errors = [FieldProblem(field="body", reason="not JSON")]
            return answer(422, "body: not JSON", errors=errors)
        case HTTPException() if error.status_code == 405:
            return answer(405, str(error.detail), headers={"Allow": ", ".join(_methods(request))})
        case HTTPException():
            headers = dict(error.headers) if error.headers else None
            return answer(error.status_code, str(error.detail), headers=headers)
    raise error


def _methods(request: Request) -> list[str]:
    """Return the methods that a path has, over all of its routes; Starlette names those of the first."""
    return [
        method
        for method in METHODS
        if any(
            route.matches({**request.scope, "method": method})[0] is Match.FULL
            for route in request.app.router.routes
        )
    ]


def _field(location: Sequence[str | int]) -> str:
    """Return the path to a field; ``body`` or ``query`` before it, and ``<variant>`` in it, go."""
    inner = [str(part) for part in location[1:]]
    named = [part for part in inner if not (part.startswith("<") and part.endswith(">"))]
    return ".".join(named) or str(location[0])


def _reason(found: dict[str, Any]) -> str:
    if found["type"] == "json_invalid":
        return f"not JSON: {found['ctx']['error']}"
    return str(found["msg"])


def _openapi(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI document with problems under their own media type."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title,
            version=app.version,
            summary=app.summary,
            description=app.description,
            tags=app.openapi_tags,
            routes=app.routes,
        )
        for path in document["paths"].values():
            for operation in path.values():
                for status, response in operation["responses"].items():
                    if int(status) >= 400:
                        (schema,) = response["content"].values()
                        response["content"] = {MEDIA_TYPE: schema}
        app.openapi_schema = document
    return app.openapi_schema
