"""The engine: one computation an item, whoever asks and however often; nobody pays for another's item."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from service_setup import until

from llmemb.encoder import Tokens
from llmemb.errors import ItemError
from service.engine import Engine
from service.errors import OverloadedError, UnavailableError
from service.llm_vector import LLMVector
from service.telemetry import Metrics

pytestmark = pytest.mark.anyio


class SlowEncoder:
    """An encoder whose vector of a prompt is a function of the prompt, and that can be held up."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []  # lengths of each computed batch
        self.calls = 0
        self.threads: set[int] = set()
        self.tokenizer_threads: set[int] = set()
        self.go = threading.Event()
        self.go.set()
        self.seconds = 0.0

    def tokenize(self, prompts: Sequence[str]) -> list[Tokens]:
        self.tokenizer_threads.add(threading.get_ident())
        if "no tokens" in prompts:
            raise ValueError("a prompt that cannot be tokenised")
        return [Tokens([ord(c) for c in prompt], truncated=False) for prompt in prompts]

    def forward(self, batch: Sequence[Tokens]) -> np.ndarray:
        self.threads.add(threading.get_ident())
        self.calls += 1
        self.go.wait(10)
        time.sleep(self.seconds)
        self.batches.append([len(tokens.ids) for tokens in batch])
        texts = ["".join(map(chr, tokens.ids)) for tokens in batch]
        if "no vector" in texts:
            raise RuntimeError("a prompt that breaks the model")
        rows = [np.full(4, np.inf if "endless" in text else vector_of(text)) for text in texts]
        return np.stack(rows).astype(np.float16)


def vector_of(text: str) -> float:
    return sum(map(ord, text)) % 999


class Setup:
    def __init__(self, max_queue: int = 1000, deadline_seconds: float = 20) -> None:
        self.encoder = SlowEncoder()
        self.kept: list[set[str]] = []
        self.worker, self.tokenizer = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        self.engine = Engine(
            self.encoder,  # type: ignore[arg-type]
            worker=self.worker,
            tokenizer=self.tokenizer,
            keep=self.keep,
            window_seconds=0.005,
            batch_tokens=64,
            max_queue=max_queue,
            deadline_seconds=deadline_seconds,
            metrics=Metrics(),
        )

    async def keep(self, vectors: Mapping[str, LLMVector]) -> None:
        self.kept.append(set(vectors))

    async def one(self, text: str) -> float:
        outcome = (await self.engine.compute({f"key {text}": text}))[f"key {text}"]
        if isinstance(outcome, Exception):
            raise outcome
        assert outcome.tokens == len(text)
        return float(outcome.values[0])

    async def hold(self) -> asyncio.Task[float]:
        """Make the model busy with an item until ``encoder.go`` is set."""
        self.encoder.go.clear()
        blocker = asyncio.create_task(self.one("blocker"))
        await until(lambda: self.engine._jobs and not self.engine._queue)
        return blocker


@pytest.fixture
async def setup() -> AsyncIterator[Setup]:
    made = Setup()
    yield made
    made.encoder.go.set()
    await made.engine.close()
    made.worker.shutdown()
    made.tokenizer.shutdown()


async def test_everyone_gets_the_vector_of_their_own_item(setup: Setup) -> None:
    texts = [f"{i % 60} " * (1 + i % 17) for i in range(300)]
    assert await asyncio.gather(*map(setup.one, texts)) == [vector_of(text) for text in texts]
    assert setup.encoder.threads == {setup.worker.submit(threading.get_ident).result()}
    assert setup.encoder.tokenizer_threads == {setup.tokenizer.submit(threading.get_ident).result()}


async def test_concurrent_items_share_batches_within_the_token_budget(setup: Setup) -> None:
    await asyncio.gather(*(setup.one("x" * (1 + i % 16) + str(i)) for i in range(40)))
    assert len(setup.encoder.batches) < 20
    for lengths in setup.encoder.batches:
        assert sum(lengths) <= 64
    assert await setup.one("y" * 100) == vector_of("y" * 100)  # over the budget: alone, not refused


async def test_the_same_item_in_flight_is_computed_once(setup: Setup) -> None:
    blocker = await setup.hold()
    waiting = [asyncio.create_task(setup.one("popular")) for _ in range(50)]
    await asyncio.sleep(0.01)
    setup.encoder.go.set()
    await asyncio.gather(blocker, *waiting)
    assert sum(map(len, setup.encoder.batches)) == 2
    assert setup.kept == [{"key blocker"}, {"key popular"}]


@pytest.mark.parametrize(
    ("bad", "error"),
    [("no tokens", ValueError), ("no vector", RuntimeError), ("endless", ItemError)],
)
async def test_a_bad_item_fails_alone(setup: Setup, bad: str, error: type[Exception]) -> None:
    good = [f"good {i}" for i in range(6)]
    texts = [*good[:3], bad, *good[3:]]
    outcomes = await asyncio.gather(*map(setup.one, texts), return_exceptions=True)
    assert isinstance(outcomes.pop(3), error)
    assert outcomes == [vector_of(text) for text in good]
    assert set().union(*setup.kept) == {f"key {text}" for text in good}
    assert await setup.one("and on it goes") == vector_of("and on it goes")


async def test_a_full_queue_refuses_a_request_whole() -> None:
    setup = Setup(max_queue=3)
    blocker = await setup.hold()
    waiting = [asyncio.create_task(setup.one(f"waiting {i}")) for i in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(OverloadedError) as refused:
        await setup.engine.compute({"a": "a", "b": "b"})
    assert 1 <= refused.value.retry_after <= 60
    joined = asyncio.create_task(setup.one("waiting 1"))  # takes no new place
    last = asyncio.create_task(setup.one("c"))
    await asyncio.sleep(0)
    setup.encoder.go.set()
    await asyncio.gather(blocker, *waiting, joined, last)
    await setup.engine.close()


async def test_a_cancelled_request_leaves_nothing_behind(setup: Setup) -> None:
    blocker = await setup.hold()
    gone = asyncio.create_task(setup.one("gone"))
    shared = [asyncio.create_task(setup.one("shared")) for _ in range(2)]
    await asyncio.sleep(0.01)
    gone.cancel()
    shared[0].cancel()
    await asyncio.sleep(0)
    setup.encoder.go.set()
    assert await shared[1] == vector_of("shared")
    await blocker
    assert set().union(*setup.kept) == {"key blocker", "key shared"}  # "gone" was not computed
    assert not setup.engine._jobs
    assert not setup.engine._queue


async def test_a_request_cancelled_after_its_items_were_taken_does_not_harm_others(
    setup: Setup,
) -> None:
    blocker = await setup.hold()
    blocker.cancel()
    await asyncio.sleep(0)
    again = asyncio.create_task(setup.one("blocker"))  # joins what is being computed
    await asyncio.sleep(0)
    setup.encoder.go.set()
    assert await again == vector_of("blocker")
    assert sum(map(len, setup.encoder.batches)) == 1


async def test_a_poison_item_is_found_by_halving(setup: Setup) -> None:
    blocker = await setup.hold()
    texts = [f"{i:02}" for i in range(16)]
    texts[11] = "no vector"
    waiting = [asyncio.create_task(setup.one(text)) for text in texts]
    await until(lambda: len(setup.engine._ready) == 16)
    setup.encoder.calls = 0
    setup.encoder.go.set()
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    await blocker
    assert sum(isinstance(outcome, Exception) for outcome in outcomes) == 1
    assert setup.encoder.calls <= 1 + 2 * 4


async def test_a_small_request_does_not_wait_for_all_of_a_large_one(setup: Setup) -> None:
    setup.encoder.seconds = 0.002
    await setup.one("x" * 50)  # now the engine knows what an item takes
    order: list[str] = []

    async def ask(name: str, texts: list[str]) -> None:
        await setup.engine.compute({text: text for text in texts})
        order.append(name)

    large = asyncio.create_task(ask("large", [f"{'x' * 50}{i}" for i in range(100)]))
    await asyncio.sleep(0.02)
    await ask("small", ["s"])
    await large
    assert order == ["small", "large"]


async def test_nobody_starves_behind_small_requests(setup: Setup) -> None:
    setup.encoder.seconds = 0.002
    large = asyncio.create_task(setup.engine.compute({f"{i}": f"{'x' * 50}{i}" for i in range(50)}))
    small = 0
    while not large.done():
        await setup.one(f"{'y' * 50}{small}")
        small += 1
        assert small < 2000
    assert len(await large) == 50


async def test_a_deadline_that_passes_is_told_and_its_items_are_dropped() -> None:
    setup = Setup(deadline_seconds=0.2)
    setup.engine._seconds_per_item = 0.001
    blocker = await setup.hold()
    with pytest.raises(UnavailableError, match=r"within 0\.2 seconds"):
        await setup.one("too late")
    assert not setup.engine._queue
    setup.encoder.go.set()
    with pytest.raises(UnavailableError):
        await blocker
    assert await setup.one("in time") == vector_of("in time")
    assert set().union(*setup.kept) == {"key blocker", "key in time"}
    await setup.engine.close()


async def test_a_deadline_that_cannot_be_met_is_refused_at_once() -> None:
    setup = Setup(deadline_seconds=2)
    blocker = await setup.hold()
    setup.engine._seconds_per_item = 0.5
    # Half a second each: the one that the model has and three that wait take too long for a fourth.
    waiting = [asyncio.create_task(setup.one(f"waiting {i}")) for i in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(OverloadedError) as refused:
        await setup.one("one more")
    assert refused.value.retry_after == 2
    setup.encoder.go.set()
    await asyncio.gather(blocker, *waiting)
    await setup.engine.close()


async def test_the_event_loop_runs_on_during_a_forward_pass(setup: Setup) -> None:
    setup.encoder.seconds = 0.4
    computing = asyncio.create_task(setup.one("long work"))
    gaps = []
    while not computing.done():
        began = time.monotonic()
        await asyncio.sleep(0.005)
        gaps.append(time.monotonic() - began)
    assert len(gaps) > 20
    assert max(gaps) < 0.2


async def test_closing_tells_whoever_waits(setup: Setup) -> None:
    blocker = await setup.hold()
    waiting = asyncio.create_task(setup.one("waiting"))
    await asyncio.sleep(0)
    await setup.engine.close()
    with pytest.raises(UnavailableError):
        await waiting
    with pytest.raises(UnavailableError):
        await blocker
