"""The backbone at work: sequences of concurrent requests become user vectors in one pass."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import Executor

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.utils.rnn import pad_sequence

from llmemb.srs import Backbone
from service.telemetry import Metrics

MOST_AT_ONCE = 64  # sequences of a pass; more would make the first ones wait


class UserVectors:
    """Runs the backbone in a thread of its own, so that no one waits behind the LLM."""

    def __init__(self, backbone: Backbone, *, executor: Executor, metrics: Metrics) -> None:
        """Take the backbone, and an executor of one thread, which alone runs it."""
        self._backbone = backbone
        self._executor = executor
        self._took = metrics.stages["backbone"]
        self._turn = asyncio.Lock()  # of the pass that runs; while it does, the next one fills
        self._sequences: list[NDArray[np.float32]] = []  # of the pass that fills
        self._pass: asyncio.Task[NDArray[np.float32]] | None = None

    async def of(self, sequence: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return a user vector, float32 ``[width]``.

        Args:
            sequence: item vectors, float32 ``[length, width]``, oldest first; at least one, and no
                more than the backbone reads.
        """
        if self._pass is None or len(self._sequences) == MOST_AT_ONCE:
            self._sequences = []
            self._pass = asyncio.create_task(self._run(self._sequences))
        place = len(self._sequences)
        self._sequences.append(sequence)
        # Shielded: one who leaves must not end the pass of the others.
        users = await asyncio.shield(self._pass)
        return np.asarray(users[place])

    async def _run(self, sequences: list[NDArray[np.float32]]) -> NDArray[np.float32]:
        async with self._turn:
            if sequences is self._sequences:
                self._pass = None  # whoever comes now is in the next one
            loop = asyncio.get_running_loop()
            with self._took.time():
                return await loop.run_in_executor(self._executor, self._compute, sequences)

    @torch.inference_mode()
    def _compute(self, sequences: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Return user vectors, float32 ``[sequences, width]``."""
        lengths = torch.tensor([len(sequence) for sequence in sequences])
        batch = pad_sequence([torch.from_numpy(one) for one in sequences], batch_first=True)
        users: NDArray[np.float32] = self._backbone.user_vectors(batch, lengths).numpy()
        return users
