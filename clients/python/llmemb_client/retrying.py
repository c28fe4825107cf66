"""Which failures are worth another try, and how long to wait for it."""

import random

import httpx

REFUSED = frozenset({429, 502, 503, 504})  # nothing was done: safe to ask again
FIRST_DELAY, LONGEST_DELAY = 0.1, 30.0  # seconds


def never_sent(error: httpx.TransportError) -> bool:
    """Return whether the service cannot have seen the request."""
    return isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)


def delay(attempt: int, response: httpx.Response | None) -> float:
    """Return how long to wait after a try, in seconds: as the service says, or twice as long each time.

    Args:
        attempt: 0 for the first.
        response: what was answered, if anything.
    """
    said = response.headers.get("retry-after", "") if response is not None else ""
    # Spread, so that those who were refused together do not come back together.
    spread = random.uniform(0.5, 1.0)  # noqa: S311
    if said.isdecimal():
        return min(LONGEST_DELAY, float(said) + spread)
    return min(LONGEST_DELAY, FIRST_DELAY * 2.0**attempt) * spread
