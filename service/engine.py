"""The queue in front of the LLM: items of concurrent requests, batched by padded tokens.

One loop takes the oldest items, the one model thread computes them. The event loop itself never runs
the model or the tokeniser. What is cached, and what a vector is used for, lives elsewhere.
"""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from llmemb.encoder import Encoder, Tokens
from llmemb.errors import ItemError
from llmemb.forward import length_batches
from service.errors import OverloadedError, UnavailableError
from service.llm_vector import LLMVector

WINDOW_ITEMS = (
    64  # taken at once, oldest first: sorts by length, and bounds the wait of those behind
)
MAX_RETRY_SECONDS = 60

log = logging.getLogger(__name__)
A = TypeVar("A")
B = TypeVar("B")

Outcome = LLMVector | Exception
Keep = Callable[[Mapping[str, LLMVector]], Awaitable[None]]


@dataclass(eq=False)
class _Job:
    """One item on its way through the model."""

    key: str  # content hash: requests for the same item share one job
    prompt: str
    waiters: int = 0  # requests that want it; at 0 it is not computed
    outcome: asyncio.Future[Outcome] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class Engine:
    """Computes LLM vectors for concurrent requests."""

    def __init__(
        self,
        encoder: Encoder,
        worker: Executor,
        keep: Keep,
        *,
        window_seconds: float,
        batch_tokens: int,
        max_queue: int,
    ) -> None:
        """Take the encoder and the thread that alone may use it.

        Args:
            encoder: the LLM.
            worker: an executor of one thread.
            keep: told the vectors of each finished batch, by content hash, before they are answered.
            window_seconds: how long an idle engine waits for more items.
            batch_tokens: padded tokens of one batch; a longer item goes alone.
            max_queue: items that may wait.
        """
        self._encoder = encoder
        self._worker = worker
        self._keep = keep
        self._window_seconds = window_seconds
        self._batch_tokens = batch_tokens
        self._max_queue = max_queue
        self._jobs: dict[str, _Job] = {}  # all that are not answered
        self._queue: dict[str, _Job] = {}  # those of them that nobody has taken yet, oldest first
        self._arrived = asyncio.Event()
        self._answering: set[asyncio.Task[None]] = set()
        self._seconds_per_item = 0.1
        self._loop = asyncio.create_task(self._serve())

    async def compute(self, prompts: Mapping[str, str]) -> dict[str, Outcome]:
        """Return the LLM vector of each prompt, or why there is none for that one.

        Args:
            prompts: the text of each item by the content hash of its attributes; at least one.

        Raises:
            OverloadedError: the queue has no room for all of them; none was taken.
        """
        jobs = self._enter(prompts)
        try:
            await asyncio.wait([job.outcome for job in jobs])
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
        await asyncio.gather(*self._answering, return_exceptions=True)
        for job in list(self._jobs.values()):
            self._answer(job, UnavailableError("the service is stopping"))

    def _enter(self, prompts: Mapping[str, str]) -> list[_Job]:
        new = [key for key in prompts if key not in self._jobs]
        if len(self._queue) + len(new) > self._max_queue:
            seconds = math.ceil(len(self._queue) * self._seconds_per_item)
            raise OverloadedError(
                f"{len(self._queue)} items wait for the model already",
                retry_after=min(max(seconds, 1), MAX_RETRY_SECONDS),
            )
        for key in new:
            self._jobs[key] = self._queue[key] = _Job(key, prompts[key])
        if new:
            self._arrived.set()
        jobs = [self._jobs[key] for key in prompts]
        for job in jobs:
            job.waiters += 1
        return jobs

    async def _serve(self) -> None:
        while True:
            if not self._queue:
                self._arrived.clear()
                await self._arrived.wait()
                await asyncio.sleep(self._window_seconds)
            taken = [self._queue.pop(key) for key in list(self._queue)[:WINDOW_ITEMS]]
            if not taken:  # all were cancelled within the window
                continue
            began = time.monotonic()
            try:
                await self._compute(taken)
            except Exception as error:  # a bug here must leave no request waiting
                log.error("the engine failed", exc_info=error)
                for job in taken:
                    self._answer(job, error)
            spent = (time.monotonic() - began) / len(taken)
            self._seconds_per_item += 0.2 * (spent - self._seconds_per_item)

    async def _compute(self, jobs: Sequence[_Job]) -> None:
        """Tokenise the jobs, then compute them in batches of like length."""
        tokenised: list[tuple[_Job, Tokens]] = []
        outcomes = await self._each(self._encoder.tokenize, [job.prompt for job in jobs])
        for job, tokens in zip(jobs, outcomes, strict=True):
            if isinstance(tokens, Exception):
                self._answer(job, tokens)
            else:
                tokenised.append((job, tokens))
        lengths = [len(tokens.ids) for _, tokens in tokenised]
        for group in length_batches(lengths, self._batch_tokens):
            batch = []
            for job, tokens in (tokenised[i] for i in group):
                if job.waiters:
                    batch.append((job, tokens))
                else:
                    self._forget(job)
            if not batch:
                continue
            computed = await self._each(self._encoder.forward, [tokens for _, tokens in batch])
            # The model goes on with the next batch while this one is kept and answered.
            task = asyncio.create_task(self._finish(batch, computed))
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)

    async def _each(
        self, function: Callable[[list[A]], Iterable[B]], inputs: list[A]
    ) -> list[B | Exception]:
        """Run a function over all inputs at once; where that fails, over each alone.

        So one input that it cannot take fails by itself, and never what came with it.
        """
        loop = asyncio.get_running_loop()
        try:
            return list(await loop.run_in_executor(self._worker, function, inputs))
        except Exception as error:  # noqa: BLE001 - whatever the model throws belongs to an item
            if len(inputs) == 1:
                return [error]
        return [(await self._each(function, [single]))[0] for single in inputs]

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
                vector = LLMVector(values, len(tokens.ids), tokens.truncated)
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
