"""Training by several processes, as ``torchrun`` and ``accelerate launch`` start them: who does what.

Each process, a rank, has a GPU of its own. Together they fine-tune the LLM and embed the catalogue; what is
left takes minutes and is done by the first alone. Where there is one process, it is the first, and
nothing here does anything.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from torch import Tensor, distributed
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from llmemb.device import best_device
from llmemb.errors import SettingsError

# A rank that died is noticed by whoever started it; this is for one that waits for a slower one.
PATIENCE = timedelta(hours=2)
WRAPPERS = ("FSDP", "DEEPSPEED")  # of accelerate


def start() -> None:
    """Meet the other processes, where this one was started with others.

    Raises:
        SettingsError: the launcher was asked for a way of sharding that is not used here.
    """
    for name in WRAPPERS:
        if os.environ.get(f"ACCELERATE_USE_{name}", "false").lower() == "true":
            raise SettingsError(
                f"the launcher's {name} is not used: leave it out, set scft.shard=true"
            )
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from accelerate import PartialState  # slow to import

        PartialState(cpu=best_device().type == "cpu", timeout=PATIENCE)


def count() -> int:
    """Return how many processes there are."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """Return which of them this is, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def first() -> bool:
    """Return whether this is the process that writes what all have made, and tells of it."""
    return rank() == 0


def wait() -> None:
    """Return when all have come here."""
    if count() > 1:
        distributed.barrier()


def agreed(value: bool) -> bool:
    """Return what the first says."""
    if count() == 1:
        return value
    said = torch.tensor(int(value), device=best_device())
    distributed.broadcast(said, 0)
    return bool(said)


@contextmanager
def one_a_machine_first() -> Iterator[None]:
    """Let one process of each machine through the block, then the others: the first may make a file there."""
    leads = os.environ.get("LOCAL_RANK", "0") == "0"
    if not leads:
        wait()
    yield
    if leads:
        wait()


def go_on_alone() -> bool:
    """Part from the others, for good; return whether this is the first, which goes on."""
    goes_on = first()
    if count() > 1:
        wait()
        distributed.destroy_process_group()
    return goes_on


def gathered(rows: Tensor) -> Tensor:
    """Return the rows of all ranks, in their order; gradients flow back to whose they are.

    Whatever is computed from them is computed by every rank: gradients are summed over the ranks, so
    their average is that of one process with all the rows.
    """
    if count() == 1:
        return rows
    from sentence_transformers.util import all_gather_with_grad  # slow to import

    every: Tensor = all_gather_with_grad(rows.contiguous())
    return every


def begin_alike(parameters: Iterable[Tensor]) -> None:
    """Give all ranks the first one's parameters."""
    if count() > 1:
        for parameter in parameters:
            distributed.broadcast(parameter.data, 0)


def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Give all ranks the mean of their gradients. What is trained is small: one message an optimiser step."""
    if count() > 1:
        gradients = [one.grad for one in parameters if one.grad is not None]
        together = parameters_to_vector(gradients)
        distributed.all_reduce(together)
        vector_to_parameters(together / count(), gradients)
