"""A second bundle beside the first: a share of the users gets it, or it only looks on."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from service_setup import MakeSettings, eventually, metric
from tiny_bundle import make_tiny_bundle

from llmemb.bundle import read_manifest
from llmemb.errors import LLMEmbError
from service.app import create_app
from service.recommender import Recommender

NEW = {"title": "Never seen", "genres": ["Drama"]}


@pytest.fixture
def make_client(
    make_settings: MakeSettings, tiny_bundle: Path, tmp_path: Path
) -> Callable[..., TestClient]:
    """Serve ``main`` with ``other`` beside it."""
    shutil.copytree(tiny_bundle, tmp_path / "main")
    shutil.copytree(make_tiny_bundle(tmp_path / "made", residuals=True), tmp_path / "other")

    def make(share: float, trial: str = "other") -> TestClient:
        settings = make_settings(bundle=tmp_path / "main", trial=trial, trial_share=share)
        return TestClient(create_app(settings), raise_server_exceptions=False)

    return make


@pytest.fixture
def ids(make_client: object, tmp_path: Path) -> tuple[str, str]:
    """Ids of the two bundles."""
    main, other = (read_manifest(tmp_path / name).bundle for name in ("main", "other"))
    return main, other


def recommended(client: TestClient, user: str | None = None) -> dict[str, Any]:
    asked = {"sequence": ["film-4", "film-8"], "k": 5, "user": user}
    answer = client.post("/recommend", json=asked)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def test_a_share_of_the_users_gets_the_second_bundle_and_always_the_same_ones(
    make_client: Callable[..., TestClient], ids: tuple[str, str]
) -> None:
    users = [f"user-{i}" for i in range(200)]
    found = []
    for _ in range(2):  # another replica, or the same one after a restart
        with make_client(0.25) as client:
            found.append([recommended(client, user)["bundle"] for user in users])
            requests = [{"sequence": ["film-4"], "user": user} for user in users]
            answer = client.post("/recommend/batch", json={"requests": requests}).json()
            assert [one["bundle"] for one in answer["results"]] == found[-1]
            assert recommended(client)["bundle"] == ids[0]
            for arm, count in (
                ("main", 2 * found[-1].count(ids[0]) + 1),
                ("trial", 2 * found[-1].count(ids[1])),
            ):
                assert metric(client, f'llmemb_recommend_seconds_count{{arm="{arm}"}}') == count
    assert found[0] == found[1]
    assert 0.15 < found[0].count(ids[1]) / len(users) < 0.35


def test_with_a_share_of_all_only_who_is_not_named_gets_the_first(
    make_client: Callable[..., TestClient], ids: tuple[str, str]
) -> None:
    with make_client(1) as client:
        assert {recommended(client, f"user-{i}")["bundle"] for i in range(20)} == {ids[1]}
        assert recommended(client)["bundle"] == ids[0]


def test_looking_on_the_second_bundle_answers_nobody_and_is_compared(
    make_client: Callable[..., TestClient], ids: tuple[str, str]
) -> None:
    with make_client(0) as client:
        client.put("/items/new", json={"attributes": NEW})
        for i in range(10):
            assert recommended(client, f"user-{i}")["bundle"] == ids[0]
        client.portal.call(client.app.state.served.trial.finish)
        assert metric(client, 'llmemb_trial_looked_on_total{outcome="compared"}') == 10
        assert metric(client, 'llmemb_recommend_seconds_count{arm="trial"}') == 10
        assert metric(client, "llmemb_trial_in_common_count") == 10
        assert 0 <= metric(client, "llmemb_trial_in_common_sum") <= 10


def test_a_failure_of_the_second_bundle_is_counted_and_no_users_trouble(
    make_client: Callable[..., TestClient],
    ids: tuple[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with make_client(0) as client:
        second = client.app.state.served.trial.serving.recommender
        honest = Recommender.recommend

        async def failing(self: Recommender, *given: Any, **more: Any) -> Any:
            if self is second:
                raise RuntimeError("made to fail")
            return await honest(self, *given, **more)

        monkeypatch.setattr(Recommender, "recommend", failing)
        assert recommended(client)["bundle"] == ids[0]
        client.portal.call(client.app.state.served.trial.finish)
        assert metric(client, 'llmemb_trial_looked_on_total{outcome="failed"}') == 1


def test_new_items_are_recommended_by_both(
    make_client: Callable[..., TestClient], ids: tuple[str, str]
) -> None:
    with make_client(1) as client:
        client.put("/items/new", json={"attributes": NEW})
        asked = {"sequence": ["film-4"], "k": 1000, "user": "someone"}

        def there() -> bool:
            answer = client.post("/recommend", json=asked).json()
            assert answer["bundle"] == ids[1]
            return "new" in {one["id"] for one in answer["items"]}

        eventually(there)  # the second one follows the catalogue


def test_a_bundle_that_cannot_be_put_on_trial_is_said_at_the_start(
    make_client: Callable[..., TestClient],
) -> None:
    with pytest.raises(LLMEmbError, match="missing"), make_client(0.5, trial="missing"):
        pass
