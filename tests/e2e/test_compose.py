"""docker-compose.yml for real: images built, services up, vectors kept over a restart.

Needs a container engine and the image ``llmemb:cpu``; ``LLMEMB_TEST_COMPOSE`` names the command, for
example ``docker compose``. ``.ci/compose`` prepares all that and runs this file.
"""

import json
import os
import shlex
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ports import free_port
from tiny_bundle import make_tiny_bundle

ROOT = Path(__file__).parents[2]
COMPOSE = os.environ.get("LLMEMB_TEST_COMPOSE")
NEW_FILM = {"title": "A film that came out today", "genres": ["Drama"]}

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        COMPOSE is None, reason="LLMEMB_TEST_COMPOSE names no compose command (`.ci/compose` does)"
    ),
]

Compose = Callable[..., str]


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def prometheus_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def compose(port: int, prometheus_port: int) -> Iterator[Compose]:
    """Bring everything up around a tiny bundle; take it down again with its volumes."""
    bundles = Path(tempfile.mkdtemp(prefix="llmemb-bundles-"))
    make_tiny_bundle(bundles)
    for path in (bundles, *bundles.rglob("*")):
        # What the libraries write for the owner alone; the container's user is another one.
        path.chmod(0o755 if path.is_dir() else 0o644)
    environment = {
        **os.environ,
        "PORT": str(port),
        "PROMETHEUS_PORT": str(prometheus_port),
        "LLMEMB_BUNDLES": str(bundles),
        "LLMEMB_BUNDLE": "bundle",
        "LLMEMB_BASE_MODEL": "/bundles/base",
    }

    def run(*arguments: str) -> str:
        command = [*shlex.split(COMPOSE or ""), *arguments]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done.stdout

    try:
        run("up", "--detach", "--no-build")
        wait_until_ready(port)
        yield run
    finally:
        run("--profile", "observability", "--profile", "replicas", "down", "--volumes")
        shutil.rmtree(bundles)


def wait_until_ready(port: int) -> None:
    """Wait for the service and for its connection to Valkey, which starts beside it on a restart."""
    answer: dict[str, str] = {}
    for _ in range(240):
        try:
            url = f"http://127.0.0.1:{port}/health/ready"
            answer = json.load(urllib.request.urlopen(url, timeout=2))
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            answer = {}
        if answer.get("cache") == "up":
            return
        time.sleep(0.5)
    pytest.fail(f"the service did not become ready within two minutes: {answer}")


def post(port: int, path: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        return json.load(urllib.request.urlopen(request, timeout=30))
    except urllib.error.HTTPError as error:
        error.add_note(error.read().decode())
        raise


def cached(port: int) -> bool:
    answer = post(port, "/items/embed", {"items": [{"attributes": NEW_FILM}]})
    return bool(answer["data"][0]["cached"])


def keys(compose: Compose) -> list[str]:
    scan = "valkey-cli --scan 2>/dev/null || redis-cli --scan"
    return compose("exec", "-T", "valkey", "sh", "-c", scan).split()


def test_it_recommends_keeps_vectors_in_valkey_and_survives_a_restart(
    compose: Compose, port: int
) -> None:
    answer = post(port, "/recommend", {"sequence": ["film-7", {"attributes": NEW_FILM}], "k": 5})
    assert len(answer["items"]) == 5
    assert {item["source"] for item in answer["items"]} == {"model"}
    assert any(key.startswith("llmemb:vec:") for key in keys(compose))
    assert cached(port)

    compose("restart")
    wait_until_ready(port)
    assert any(key.startswith("llmemb:vec:") for key in keys(compose))
    assert cached(port)


def test_the_service_does_not_run_as_root(compose: Compose) -> None:
    assert compose("exec", "-T", "service", "id", "-u").strip() == "10001"


@pytest.fixture(scope="module")
def prometheus(compose: Compose, prometheus_port: int) -> str:
    """Start Prometheus as the profile has it; return its address once it has read the service."""
    compose("--profile", "observability", "up", "--detach", "--no-build", "prometheus")
    address = f"http://127.0.0.1:{prometheus_port}"
    wait_for(lambda: asked(address, "llmemb_requests_total") != [], "Prometheus reads the service")
    return address


def asked(prometheus: str, query: str) -> list[Any]:
    """Return what Prometheus answers to a query: a list of series."""
    url = f"{prometheus}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
    try:
        found: list[Any] = json.load(urllib.request.urlopen(url, timeout=5))["data"]["result"]
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return []
    return found


def firing(prometheus: str) -> set[str]:
    answer = json.load(urllib.request.urlopen(f"{prometheus}/api/v1/alerts", timeout=5))
    return {
        one["labels"]["alertname"] for one in answer["data"]["alerts"] if one["state"] == "firing"
    }


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"{what}: not within {seconds:.0f} s"
        time.sleep(1)


def test_every_panel_of_the_dashboard_has_data(prometheus: str, port: int) -> None:
    post(port, "/items/embed", {"items": [{"attributes": NEW_FILM}]})
    (dashboard,) = (ROOT / "docker/observability/grafana/dashboards").glob("*.json")
    panels = json.loads(dashboard.read_bytes())["panels"]
    queries = {
        target["expr"]: panel["title"]
        for panel in panels
        for target in panel.get("targets", [])
        if "on trial" not in panel["title"]  # there is none here
    }
    assert len(queries) > 10

    def empty() -> list[str]:
        for sequence in (["film-7", "nobody-knows-this"], ["nobody-knows-this"]):
            post(port, "/recommend", {"sequence": sequence, "k": 5})
        return [title for query, title in queries.items() if asked(prometheus, query) == []]

    wait_for(lambda: not empty(), "all panels have data")


def test_an_alert_fires_while_valkey_is_stopped_and_ends_after(
    compose: Compose, prometheus: str, port: int
) -> None:
    assert "RedisAway" not in firing(prometheus)
    compose("stop", "valkey")
    wait_for(lambda: firing(prometheus) == {"RedisAway"}, "the alert fires")
    compose("start", "valkey")
    wait_for(lambda: firing(prometheus) == set(), "the alert ends")
    wait_until_ready(port)


def test_replicas_answer_behind_the_proxy_in_the_services_place(
    compose: Compose, prometheus: str, port: int
) -> None:
    compose("stop", "service")
    compose("--profile", "replicas", "up", "--detach", "--no-build", "proxy")
    wait_until_ready(port)
    answered = 'llmemb_requests_total{route="/recommend",status="200"} > 0'

    def recommend() -> None:
        answer = post(port, "/recommend", {"sequence": ["film-7", {"attributes": NEW_FILM}]})
        assert {item["source"] for item in answer["items"]} == {"model"}

    def both_have_answered() -> bool:  # the proxy is ready with the first of them
        try:
            recommend()
        except urllib.error.HTTPError as error:
            # HAProxy before 3.1 asks a replica before it has checked it. One that took the request and
            # answered as it became ready is out again until its first checks are good.
            if error.code != 503:
                raise
        return len(asked(prometheus, answered)) == 2

    wait_for(both_have_answered, "both replicas have answered")
    for _ in range(10):
        recommend()
    assert compose("--profile", "replicas", "exec", "-T", "proxy", "id", "-u").strip() == "10001"
