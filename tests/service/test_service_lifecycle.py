"""From live to ready to draining: what a load balancer and an orchestrator see."""

import signal
import threading
import time
from typing import Any

import httpx
import pytest
import torch
from fastapi.testclient import TestClient
from service_process import Serve
from service_setup import MakeSettings, eventually

from service.app import create_app


def test_sigterm_finishes_what_was_accepted_and_refuses_the_rest(serve: Serve) -> None:
    service = serve(LLMEMB_DRAIN_SECONDS="2", LLMEMB_BATCH_WINDOW_MS="1000")
    service.client.get("/health/live")
    answers: list[int] = []

    def ask() -> None:
        with httpx.Client(base_url=service.client.base_url, timeout=20) as client:
            items = [{"attributes": {"title": "asked before the end"}}]
            answers.append(client.post("/items/embed", json={"items": items}).status_code)

    asking = threading.Thread(target=ask)
    asking.start()
    time.sleep(0.3)
    service.process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    refused = service.client.post("/recommend", json={"sequence": []})
    assert refused.status_code == 503
    assert int(refused.headers["retry-after"]) >= 1
    ready = service.client.get("/health/ready")
    assert (ready.status_code, "stopping" in ready.json()["detail"]) == (503, True)
    assert service.client.get("/health/live").status_code == 200
    asking.join()
    assert answers == [200]
    assert service.process.wait(timeout=15) == 0


def test_who_ends_it_twice_does_not_wait(serve: Serve) -> None:
    service = serve(LLMEMB_DRAIN_SECONDS="60")
    service.process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    service.process.send_signal(signal.SIGTERM)
    assert service.process.wait(timeout=15) == 0


@pytest.mark.parametrize("thread", ["model", "backbone"])
def test_a_thread_that_hangs_is_found_and_one_that_goes_on_is_ready_again(
    make_settings: MakeSettings, thread: str
) -> None:
    with TestClient(create_app(make_settings(hung_seconds=0.5))) as client:

        def ready() -> Any:
            return client.get("/health/ready")

        assert ready().status_code == 200
        go_on = threading.Event()
        client.app.state.served.serving.watchdog._threads[thread].submit(go_on.wait)
        eventually(lambda: ready().status_code == 503)
        assert f"the {thread} has not answered" in ready().json()["detail"]
        assert client.get("/health/live").status_code == 200
        go_on.set()
        eventually(lambda: ready().status_code == 200)


@pytest.mark.parametrize("threads", [None, 2, 3])
def test_the_model_has_its_threads_and_the_backbone_one(
    make_settings: MakeSettings, threads: int | None
) -> None:
    with TestClient(create_app(make_settings(threads=threads))) as client:
        expected = threads or torch.get_num_threads()
        client.post("/recommend", json={"sequence": ["film-4", {"attributes": {"title": "New"}}]})
        assert client.get("/bundle").json()["serving"]["threads"] == expected
        machine = client.app.state.served._machine
        assert machine.worker.submit(torch.get_num_threads).result() == expected
        assert machine.backbone.submit(torch.get_num_threads).result() == 1
