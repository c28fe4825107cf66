"""What several of the service's tests share besides fixtures."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

from fastapi.testclient import TestClient

from service.settings import Settings

MakeSettings = Callable[..., Settings]


async def until(condition: Callable[[], Any], seconds: float = 15) -> None:
    """Wait for a condition, and fail if it takes too long."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.01)


def eventually(condition: Callable[[], Any], seconds: float = 15) -> None:
    """Wait longer than a loaded machine takes; how soon it is, `benchmarks/freshness.py` measures."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def metric(client: TestClient, name: str) -> float:
    """Return the value of one metric, which must be there; its labels are part of the name."""
    lines = client.get("/metrics").text.splitlines()
    return float(next(one.split()[-1] for one in lines if one.startswith(f"{name} ")))


def recommended(client: TestClient, k: int = 1000) -> set[str]:
    """Return the ids of the items recommended after one film."""
    answer = client.post("/recommend", json={"sequence": ["film-4"], "k": k})
    assert answer.status_code == 200, answer.text
    return {one["id"] for one in answer.json()["items"]}
