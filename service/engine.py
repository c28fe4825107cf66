"""The queue in front of the LLM: items of concurrent requests, taken in turn, computed in batches.

Items are tokenised in one thread while the model computes in another; the event loop itself runs
neither. What is cached, and what a vector is used for, lives elsewhere.
"""

import asyncio
import contextlib
import heapq
import itertools
import math
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from llmemb.encoder import Encoder, Tokens
from llmemb.errors import ItemError
from service.background import Background
from service.errors import OverloadedError, UnavailableError
from service.llm_vector import LLMVector
from service.telemetry import Metrics

if TYPE_CHECKING:
    from opentelemetry.trace import Span

MAX_RETRY_SECONDS = 60
# Share of the deadline: what is expected to take longer is refused, since machines have slow moments.
PUNCTUAL = 0.8

A = TypeVar("A")
B = TypeVar("B")

Outcome = LLMVector | Exception
Keep = Callable[[Mapping[str, LLMVector]], Awaitable[None]]


@dataclass(eq=False)
class _Job:
    """One item on its way through the model."""

    key: str  # content hash: requests for the same item share one job
    prompt: str
    entered: float  # in seconds of the monotonic clock
    turn: float  # when it is due, by the same clock: the queue's order
    tokens: Tokens | None = None  # None: not tokenised yet
    span: "Span | None" = None  # of the request that it came with
    waiters: int = 0  # requests that want it; at 0 it is not computed
    outcome: asyncio.Future[Outcome] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class Engine:
    """Computes LLM vectors for concurrent requests.

    An item's turn is when its request came plus the time that the request's items before it take. So
    a request of one item does not wait for all of a large one that came just before it, and as turns
    move on with the clock, nothing waits for ever.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        worker: Executor,
        tokenizer: Executor,
        keep: Keep,
        window_seconds: float,
        batch_tokens: int,
        max_queue: int,
        deadline_seconds: float,
        metrics: Metrics,
    ) -> None:
        """Take the encoder and the threads that may use it.

        Args:
            encoder: the LLM.
            worker: an executor of one thread, which alone runs the model.
            tokenizer: an executor of one thread, which alone runs the tokeniser.
            keep: told the vectors of each finished batch, by content hash, before they are answered.
            window_seconds: how long an idle engine waits for more items.
            batch_tokens: tokens of one batch; a longer item goes alone.
            max_queue: items that may wait.
            deadline_seconds: how long a request may take.
            metrics: told how long stages took.
        """
        self._encoder = encoder
        self._worker = worker
        self._tokenizer = tokenizer
        self._keep = keep
        self._window_seconds = window_seconds
        self._batch_tokens = batch_tokens
        self._max_queue = max_queue
        self._deadline_seconds = deadline_seconds
        self._stages = metrics.stages
        self._jobs: dict[str, _Job] = {}  # all that are not answered
        self._queue: dict[str, _Job] = {}  # those of them that nobody has taken yet
        # A heap: tokenised, by turn, some gone since.
        self._ready: list[tuple[float, int, _Job]] = []
        self._numbers = itertools.count()
        self._arrived = asyncio.Event()
        self._background = Background()
        self._seconds_per_item = 0.0  # of late; not known yet
        self._busy_seconds = self._busy_items = 0.0
        self._batch_seconds = 0.0  # of the longest batch of late
        self._loop = asyncio.create_task(self._serve())

    @property
    def waiting(self) -> int:
        """How many items wait."""
        return len(self._queue)

    async def compute(self, prompts: Mapping[str, str]) -> dict[str, Outcome]:
        """Return the LLM vector of each prompt, or why there is none for that one.

        Args:
            prompts: the text of each item by the content hash of its attributes; at least one.

        Raises:
            OverloadedError: the queue has no room for all of them, or they would wait for longer than
                the deadline; none was taken.
            UnavailableError: they were not all computed within the deadline.
        """
        jobs = self._enter(prompts)
        try:
            outcomes = [job.outcome for job in jobs]
            _, late = await asyncio.wait(outcomes, timeout=self._deadline_seconds)
            if late:
                raise UnavailableError(
                    f"the model did not get to all items within {self._deadline_seconds:g} seconds",
                    retry_after=self._retry_after(),
                )
        finally:
            for job in jobs:
                job.waiters -= 1
                if not job.waiters and self._queue.get(job.key) is job:
                    del self._queue[job.key]
                    self._forget(job)
        return {job.key: job.outcome.result() for job in jobs}

    async def close(self) -> None:
        """Stop; whoever still waits is told that the service is unavailable."""
        self._loop.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._loop
        await self._background.finish()
        for job in list(self._jobs.values()):
            self._answer(job, UnavailableError("the service is stopping"))

    def _enter(self, prompts: Mapping[str, str]) -> list[_Job]:
        new = [key for key in prompts if key not in self._jobs]
        waiting = len(self._queue)
        # Those that the model has now, those that wait, and the batch that an item will be part of.
        ahead = len(self._jobs) * self._seconds_per_item + self._batch_seconds
        late = ahead > PUNCTUAL * self._deadline_seconds
        if new and (waiting + len(new) > self._max_queue or (self._jobs and late)):
            raise OverloadedError(
                f"{waiting} items wait for the model already", retry_after=self._retry_after()
            )
        now = time.monotonic()
        entered = []
        for i, key in enumerate(new):
            turn = now + i * self._seconds_per_item
            job = _Job(key, prompts[key], now, turn, span=self._stages["queue"].current())
            self._jobs[key] = self._queue[key] = job
            entered.append(job)
        if entered:
            self._background.start(self._tokenise(entered))
        jobs = [self._jobs[key] for key in prompts]
        for job in jobs:
            job.waiters += 1
        return jobs

    def _retry_after(self) -> int:
        seconds = math.ceil(len(self._queue) * self._seconds_per_item)
        return min(max(seconds, 1), MAX_RETRY_SECONDS)

    async def _tokenise(self, jobs: Sequence[_Job]) -> None:
        prompts = [job.prompt for job in jobs]
        with self._stages["tokenize"].time():
            tokenised = await self._each(self._tokenizer, self._encoder.tokenize, prompts)
        for job, tokens in zip(jobs, tokenised, strict=True):
            if isinstance(tokens, Exception):
                self._queue.pop(job.key, None)
                self._answer(job, tokens)
            else:
                job.tokens = tokens
                heapq.heappush(self._ready, (job.turn, next(self._numbers), job))
        self._arrived.set()

    async def _serve(self) -> None:
        while True:
            if not self._ready:
                self._arrived.clear()
                await self._arrived.wait()
                await asyncio.sleep(self._window_seconds)
            batch = self._take()
            if not batch:  # all were cancelled since
                continue
            began = time.monotonic()
            tokens = [tokens for _, tokens in batch]
            for job, _ in batch:
                self._stages["queue"].took(began - job.entered, [job.span])
            computed = await self._each(self._worker, self._encoder.forward, tokens)
            took = time.monotonic() - began
            self._stages["forward"].took(took, [job.span for job, _ in batch])
            # The model goes on with the next batch while this one is kept and answered.
            self._background.start(self._finish(batch, computed))
            # Sums that forget: full batches count for more than lone items, which are slower.
            self._batch_seconds = max(took, 0.8 * self._batch_seconds)
            self._busy_seconds = 0.8 * self._busy_seconds + took
            self._busy_items = 0.8 * self._busy_items + len(batch)
            self._seconds_per_item = self._busy_seconds / self._busy_items

    def _take(self) -> list[tuple[_Job, Tokens]]:
        """Remove from the queue those whose turn it is, up to a batch of tokens, one at least."""
        batch: list[tuple[_Job, Tokens]] = []
        total = 0
        while self._ready:
            _, _, job = self._ready[0]
            if self._queue.get(job.key) is job and job.tokens is not None:
                total += len(job.tokens.ids)
                if batch and total > self._batch_tokens:
                    break
                batch.append((self._queue.pop(job.key), job.tokens))
            heapq.heappop(self._ready)
        return batch

    async def _each(
        self, thread: Executor, function: Callable[[list[A]], Iterable[B]], inputs: list[A]
    ) -> list[B | Exception]:
        """Run a function over all inputs at once; where that fails, over each half.

        So one input that it cannot take fails by itself, and never what came with it.
        """
        loop = asyncio.get_running_loop()
        try:
            outputs: list[B | Exception] = list(
                await loop.run_in_executor(thread, function, inputs)
            )
            if len(outputs) != len(inputs):
                raise RuntimeError(f"{len(outputs)} results of {len(inputs)} items")
            return outputs
        except Exception as error:  # noqa: BLE001 - whatever the model throws belongs to an item
            if len(inputs) == 1:
                return [error]
        half = len(inputs) // 2
        first = await self._each(thread, function, inputs[:half])
        return first + await self._each(thread, function, inputs[half:])

    async def _finish(
        self,
        batch: Sequence[tuple[_Job, Tokens]],
        computed: Sequence[NDArray[np.float16] | Exception],
    ) -> None:
        outcomes: list[tuple[_Job, Outcome]] = []
        for (job, tokens), values in zip(batch, computed, strict=True):
            if isinstance(values, Exception):
                outcomes.append((job, values))
            elif not np.isfinite(values).all():
                outcomes.append((job, ItemError("the model gives no finite vector for this text")))
            else:
                # A copy: a view would keep its whole batch in memory.
                vector = LLMVector(values.copy(), len(tokens.ids), tokens.truncated)
                outcomes.append((job, vector))
        try:
            vectors = {job.key: v for job, v in outcomes if isinstance(v, LLMVector)}
            if vectors:
                await self._keep(vectors)
        finally:
            for job, outcome in outcomes:
                self._answer(job, outcome)

    def _answer(self, job: _Job, outcome: Outcome) -> None:
        self._forget(job)
        if not job.outcome.done():
            job.outcome.set_result(outcome)

    def _forget(self, job: _Job) -> None:
        if self._jobs.get(job.key) is job:
            del self._jobs[job.key]
