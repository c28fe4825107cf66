"""What several of the service's tests share besides fixtures."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

from service.settings import Settings

MakeSettings = Callable[..., Settings]


async def until(condition: Callable[[], Any], seconds: float = 15) -> None:
    """Wait for a condition, and fail if it takes too long."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.01)
