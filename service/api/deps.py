"""What routes ask for, and the limits that come from the settings rather than from the schema."""

from fastapi import Request

from service.errors import InvalidFieldError, UnavailableError
from service.serving import Serving


def serving_of(http: Request) -> Serving:
    """Return the bundle at work; a plain function: a dependency would keep routes from the short way.

    Raises:
        UnavailableError: it is still loading, or the service is stopping.
    """
    serving: Serving | None = http.app.state.serving
    if serving is None:
        raise UnavailableError("the bundle is not loaded")
    return serving


def check_at_most(limit: int, given: int, field: str) -> None:
    """Refuse a number, or a number of entries, over a limit from the settings.

    Raises:
        InvalidFieldError: it is over.
    """
    if given > limit:
        raise InvalidFieldError(field, f"{given:,} is over the limit of {limit:,}")
