"""What routes ask for, and the limits that come from the settings rather than from the schema."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from fastapi import HTTPException, Request

from service.api.schemas import AttributeFilter, ColdItem
from service.embedder import PreparedItem
from service.errors import InvalidFieldError, UnavailableError, UnknownAttributeError
from service.filters import Condition
from service.reload import Served
from service.serving import Serving
from service.trial import Trial


def serving_of(http: Request) -> Serving:
    """Return the bundle at work; a plain function: a dependency would keep routes from the short way.

    Raises:
        UnavailableError: it is still loading, or the service is stopping.
    """
    served: Served | None = http.app.state.served
    if served is None or served.serving is None:
        raise UnavailableError("the bundle is not loaded")
    return served.serving


def trial_of(http: Request) -> Trial | None:
    """Return the bundle on trial, if there is one."""
    served: Served = http.app.state.served
    return served.trial


def check_at_most(limit: int, given: int, field: str) -> None:
    """Refuse a number, or a number of entries, over a limit from the settings.

    Raises:
        InvalidFieldError: it is over.
    """
    if given > limit:
        raise InvalidFieldError(field, f"{given:,} is over the limit of {limit:,}")


def conditions_of(
    serving: Serving, asked: Mapping[str, AttributeFilter], field: str
) -> dict[str, Condition]:
    """Return a filter as the index takes it.

    Raises:
        InvalidFieldError: it names more values than the settings allow.
    """
    conditions = {name: Condition(**one.model_dump()) for name, one in asked.items()}
    values = sum(
        1 + len(one.any or ()) + len(one.all or ()) + len(one.none or ())
        for one in conditions.values()
    )
    check_at_most(serving.settings.max_filter, values, field)
    return conditions


@contextmanager
def naming_filter(field: str) -> Iterator[None]:
    """Tell an attribute that no item has as a fault of that filter.

    Raises:
        InvalidFieldError: there is such an attribute in it.
    """
    try:
        yield
    except UnknownAttributeError as error:
        raise InvalidFieldError(f"{field}.{error.name}", str(error)) from error


def prepared_sequence(
    serving: Serving, sequence: Sequence[str | ColdItem], field: str
) -> list[str | PreparedItem]:
    """Return a sequence as the recommender takes it.

    Raises:
        InvalidFieldError: it is longer than the settings allow, or a cold item cannot be used.
    """
    check_at_most(serving.settings.max_sequence, len(sequence), field)
    return [
        serving.embedder.prepare(entry.attributes, f"{field}.{i}.attributes")
        if isinstance(entry, ColdItem)
        else entry
        for i, entry in enumerate(sequence)
    ]


def no_item(item_id: str) -> HTTPException:
    """Return what says that there is no such item."""
    return HTTPException(404, f"there is no item {item_id!r}")
