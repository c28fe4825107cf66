"""Metrics, as Prometheus would read them."""

from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families


def asked(client: TestClient) -> dict[str, float]:
    families = text_string_to_metric_families(client.get("/metrics").text)
    return {
        sample.labels["source"]: sample.value
        for family in families
        for sample in family.samples
        if sample.name == "llmemb_asked_vectors_total"
    }


def test_where_vectors_came_from_is_counted(client: TestClient) -> None:
    before = asked(client)
    films = [{"attributes": {"title": f"Counted {i}"}} for i in range(3)]
    for count in (2, 3):
        client.post("/items/embed", json={"items": films[:count]}).raise_for_status()
    after = asked(client)
    assert {source: after[source] - before[source] for source in after} == {
        "memory": 2,
        "redis": 0,
        "model": 3,
    }
