"""Users' sequences of items: the leave-one-out split, popularity counted on training data, head and tail.

Reading raw logs lives in ``trainer.data``; metrics live in :mod:`llmemb.metrics`.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from llmemb.catalogue import Catalogue, read_parquet
from llmemb.errors import DataError

HEAD_SHARE = 0.2  # of the items, the most popular ones; the rest is the tail
MIN_EVALUATED = 3  # interactions: one to train on, one to validate, one to test


@dataclass(frozen=True)
class Sequences:
    """Ragged sequences of item indices, oldest first.

    Attributes:
        items: int32 ``[interactions]``, the sequences one behind the other.
        offsets: int64 ``[sequences + 1]``; sequence ``u`` is ``items[offsets[u]:offsets[u + 1]]``.
    """

    items: NDArray[np.int32]
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, u: int) -> NDArray[np.int32]:
        return self.items[self.offsets[u] : self.offsets[u + 1]]

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """int64 ``[sequences]``."""
        return np.diff(self.offsets)

    def renumbered(self, numbers: NDArray[np.int64]) -> "Sequences":
        """Return the same sequences with item ``i`` called ``numbers[i]``."""
        return Sequences(numbers[self.items].astype(np.int32), self.offsets)


@dataclass(frozen=True)
class LeaveOneOut:
    """The leave-one-out split: a user's last item is the test target, the one before it validates.

    A user with fewer than ``MIN_EVALUATED`` interactions is trained on and not evaluated. Items that
    are held out are left out of training and stay in histories: strictly cold items, made to order.

    Attributes:
        full: every user's whole sequence.
        evaluated: int64 ``[evaluated users]``, indices into ``full``.
        n_items: size of the catalogue.
        held_out: bool ``[n_items]``.
    """

    full: Sequences
    evaluated: NDArray[np.int64]
    n_items: int
    held_out: NDArray[np.bool_]

    @cached_property
    def train(self) -> Sequences:
        """Every user's training items: all, or all but the last two where the user is evaluated.

        Items held out are skipped.
        """
        kept = self.full.lengths.copy()
        kept[self.evaluated] -= 2
        position = np.arange(len(self.full.items)) - np.repeat(
            self.full.offsets[:-1], self.full.lengths
        )
        mask = (position < np.repeat(kept, self.full.lengths)) & ~self.held_out[self.full.items]
        return Sequences(self.full.items[mask], np.append(0, np.cumsum(mask))[self.full.offsets])

    def targets(self, part: str) -> NDArray[np.int32]:
        """Return the ``"validation"`` or ``"test"`` target of each evaluated user, int32."""
        return self.full.items[self._target_positions(part)]

    def histories(self, part: str) -> list[NDArray[np.int32]]:
        """Return what each evaluated user did before the target of that part, oldest first."""
        starts = self.full.offsets[self.evaluated]
        return [
            self.full.items[start:end]
            for start, end in zip(starts, self._target_positions(part), strict=True)
        ]

    def holding_out(self, share: float, seed: int) -> Self:
        """Return the split with a random share of the items held out of training."""
        chosen = np.random.default_rng(seed).permutation(self.n_items)
        held_out = np.zeros(self.n_items, dtype=bool)
        held_out[chosen[: round(share * self.n_items)]] = True
        return replace(self, held_out=held_out)

    def _target_positions(self, part: str) -> NDArray[np.int64]:
        back = {"validation": 2, "test": 1}[part]
        return self.full.offsets[self.evaluated + 1] - back

    @cached_property
    def popularity(self) -> NDArray[np.int64]:
        """Training interactions of each item, int64 ``[n_items]``; 0 for a strictly cold item."""
        return np.bincount(self.train.items, minlength=self.n_items).astype(np.int64)

    @cached_property
    def head(self) -> NDArray[np.bool_]:
        """The most popular items, bool ``[n_items]``."""
        return head_items(self.popularity)


def head_items(popularity: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which items are the 20% most popular, bool ``[items]``; ties go to the earlier item."""
    order = np.argsort(-popularity, kind="stable")
    mask = np.zeros(len(popularity), dtype=bool)
    mask[order[: round(HEAD_SHARE * len(popularity))]] = True
    return mask


def leave_one_out(sequences: Sequences, n_items: int) -> LeaveOneOut:
    """Split sequences for leave-one-out evaluation.

    Raises:
        DataError: no user has ``MIN_EVALUATED`` interactions.
    """
    evaluated = np.flatnonzero(sequences.lengths >= MIN_EVALUATED)
    if not len(evaluated):
        raise DataError(
            f"no user has {MIN_EVALUATED} interactions: leave-one-out needs one to train on, "
            "one to validate and one to test"
        )
    return LeaveOneOut(sequences, evaluated, n_items, np.zeros(n_items, dtype=bool))


def read_sequences(path: Path, catalogue: Catalogue) -> Sequences:
    """Read ``interactions.parquet``, whose rows lie user by user and oldest first.

    Raises:
        DataError: the file cannot be read or names an item that the catalogue lacks.
    """
    table = read_parquet(path, ("user", "item"))
    users = table["user"].combine_chunks().dictionary_encode().indices.to_numpy()
    encoded = table["item"].combine_chunks().dictionary_encode()
    names = encoded.dictionary.to_pylist()
    if unknown := [name for name in names if name not in catalogue.index]:
        raise DataError(f"{path} names item {unknown[0]!r}, which is not in items.parquet")
    positions = np.array([catalogue.index[name] for name in names], dtype=np.int32)
    starts = np.flatnonzero(np.diff(users, prepend=-1))
    if len(starts) != len(set(users[starts].tolist())):
        raise DataError(f"{path}: a user's rows are not together; run `llmemb data prepare` again")
    return Sequences(
        positions[encoded.indices.to_numpy()], np.append(starts, len(users)).astype(np.int64)
    )
