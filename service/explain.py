"""Why an item is recommended: what its score loses when an entry of the sequence is left out."""

import asyncio
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from service.user_vectors import UserVectors

DRIVERS = 3  # entries named for each item


async def drivers(
    users: UserVectors,
    sequence: NDArray[np.float32],
    user: NDArray[np.float32],
    items: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Return what each item's score loses without each entry, float32 ``[items, length]``.

    Args:
        users: the backbone.
        sequence: item vectors, float32 ``[length, width]``, as the backbone read them.
        user: the user vector after all of it, float32 ``[width]``.
        items: float32 ``[items, width]``.
    """
    if len(sequence) == 1:  # without it there is no score at all
        return np.asarray(items @ user)[:, np.newaxis]
    shorter = [np.delete(sequence, place, axis=0) for place in range(len(sequence))]
    without = np.stack(await asyncio.gather(*map(users.of, shorter)))
    return np.asarray(items @ (user - without).T, dtype=np.float32)


def strongest(places: Sequence[int], changes: NDArray[np.float32]) -> list[tuple[int, float]]:
    """Return the places of the largest changes, and those; an entry that took from the score is none."""
    order = np.argsort(-changes, kind="stable")[:DRIVERS]
    return [(places[i], float(changes[i])) for i in order if changes[i] > 0]
