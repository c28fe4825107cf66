"""What can go wrong, as classes: catch :class:`LLMEmbClientError` for all of it."""

import httpx
from pydantic import BaseModel, ValidationError


class LLMEmbClientError(Exception):
    """Any failure of a call."""


class ConnectionFailedError(LLMEmbClientError):
    """The service was not reached, or broke off, as often as it was tried."""


class TimedOutError(ConnectionFailedError):
    """The service did not answer in time."""


class FieldProblem(BaseModel):
    """What is wrong with one field of a request."""

    field: str
    reason: str


class AnsweredError(LLMEmbClientError):
    """The service answered with an error (RFC 9457).

    Attributes:
        status: of HTTP.
        detail: what went wrong, in a sentence.
        errors: the fields to blame, where there are any.
        request_id: to find the request in the service's log.
    """

    def __init__(
        self, status: int, detail: str, errors: list[FieldProblem], request_id: str | None
    ) -> None:
        super().__init__(f"{status}: {detail}")
        self.status = status
        self.detail = detail
        self.errors = errors
        self.request_id = request_id


class UnauthorizedError(AnsweredError):
    """No API key, or one that is not known (401)."""


class ForbiddenError(AnsweredError):
    """The API key may not do this (403)."""


class NotFoundError(AnsweredError):
    """There is no such item (404)."""


class RefusedError(AnsweredError):
    """It is not done, and the service goes on as before (409)."""


class ConflictError(AnsweredError):
    """The item has another version than was expected, or is there already (412)."""


class InvalidRequestError(AnsweredError):
    """The request cannot be used; ``errors`` names the fields (400, 413, 422)."""


class OverloadedError(AnsweredError):
    """Too much work was waiting, as often as it was tried (429)."""


class UnavailableError(AnsweredError):
    """The service was not ready, as often as it was tried (502, 503, 504)."""


_BY_STATUS: dict[int, type[AnsweredError]] = {
    400: InvalidRequestError,
    401: UnauthorizedError,
    403: ForbiddenError,
    404: NotFoundError,
    409: RefusedError,
    412: ConflictError,
    413: InvalidRequestError,
    422: InvalidRequestError,
    429: OverloadedError,
    502: UnavailableError,
    503: UnavailableError,
    504: UnavailableError,
}


class _Problem(BaseModel):
    detail: str
    errors: list[FieldProblem] | None = None


def answered(response: httpx.Response) -> AnsweredError:
    """Return the error that a response tells of."""
    try:
        problem = _Problem.model_validate_json(response.content)
    except ValidationError:  # of something between the service and us
        problem = _Problem(detail=response.reason_phrase or "an error without a reason")
    kind = _BY_STATUS.get(response.status_code, AnsweredError)
    request_id = response.headers.get("x-request-id")
    return kind(response.status_code, problem.detail, problem.errors or [], request_id)


def unreached(error: httpx.TransportError, url: httpx.URL) -> ConnectionFailedError:
    """Return the error that says so."""
    kind = TimedOutError if isinstance(error, httpx.TimeoutException) else ConnectionFailedError
    return kind(f"{url}: {error or type(error).__name__}")
