"""From a user vector to the items to show: search among those that are eligible, then the levers.

Every lever is off unless it is asked for. They re-rank candidates: the best of the search, more than are
wanted.
"""

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from service.filters import Condition
from service.live_items import LiveItems

CANDIDATES, CANDIDATES_TIMES = 100, 10  # besides k, and times k: what levers choose from
DAY = 24 * 3600.0

Rows = NDArray[np.int64]
Scores = NDArray[np.float32]


@dataclass(frozen=True)
class Wanted:
    """How the items to show are chosen.

    Attributes:
        k: how many.
        conditions: what their attributes must be.
        min_cold: how many of them at least are cold: without an interaction in training.
        tail_boost: added to the score of a cold item; of one with ``n`` interactions, divided by
            ``1 + ln(1 + n)``.
        freshness_boost: added to the score of an item put just now, halved for each
            ``freshness_days`` since; items of the bundle get none.
        diversity: 0 to 1, see :func:`diverse`.
    """

    k: int
    conditions: Mapping[str, Condition] = field(default_factory=dict)
    min_cold: int = 0
    tail_boost: float = 0
    freshness_boost: float = 0
    freshness_days: float = 7
    diversity: float = 0

    @property
    def levers(self) -> bool:
        """Whether candidates are ranked again."""
        return bool(self.tail_boost or self.freshness_boost or self.diversity)


def ranked(
    items: LiveItems,
    user: NDArray[np.float32],
    wanted: Wanted,
    *,
    excluded: Collection[int],
    repeated: Collection[int],
    repeat_bias: float,
) -> tuple[list[tuple[int, float]], int]:
    """Return ``(row, score)`` of the items to show, and how many pass the conditions.

    Args:
        items: all that are there.
        user: the user vector, float32 ``[width]``.
        wanted: how to choose.
        excluded: rows that may not be shown.
        repeated: rows of the sequence that may be; ``repeat_bias`` is added to their scores.
        repeat_bias: how likely users are to return to an item, as the backbone has learnt it.

    Raises:
        UnknownAttributeError: a condition names an attribute that no item has.
        IndexAwayError: what searches does not answer.
    """
    among = items.among(wanted.conditions)
    count = wanted.k
    if wanted.levers:
        count = CANDIDATES + CANDIDATES_TIMES * wanted.k
    hidden = {*excluded, *repeated}
    rows, scores = items.index.search(user, count, hidden, among)
    again = np.array([row for row in repeated if among is None or among.rows[row]], dtype=np.int64)
    rows = np.concatenate([rows, again])
    scores = np.concatenate([scores, items.index.vectors(again) @ user + repeat_bias])
    if wanted.levers:
        scores = scores + boosts(items, rows, wanted)
    order = np.argsort(-scores, kind="stable")
    if wanted.diversity:
        vectors = items.similar.vectors(rows[order])
        order = order[diverse(scores[order], vectors, wanted.k, wanted.diversity)]
    rows, scores = rows[order[: wanted.k]], scores[order[: wanted.k]]
    if wanted.min_cold:
        rows, scores = _with_cold(items, user, wanted, hidden, rows, scores)
    passing = len(items) if among is None else int(np.count_nonzero(among.rows))
    return list(zip(rows.tolist(), scores.tolist(), strict=True)), passing


def boosts(items: LiveItems, rows: Rows, wanted: Wanted) -> Scores:
    """Return what levers add to the scores of rows, float32 ``[rows]``."""
    popularity = items.popularity(rows)
    tail = wanted.tail_boost / (1 + np.log1p(popularity))
    days = np.maximum(time.time() - items.updated(rows), 0) / DAY
    fresh = wanted.freshness_boost * 0.5 ** (days / wanted.freshness_days)
    return np.asarray(tail + fresh, dtype=np.float32)


def diverse(scores: Scores, vectors: NDArray[np.float32], k: int, diversity: float) -> Rows:
    """Return ``k`` places in an order that weighs score against likeness to what comes before.

    Maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998): next comes what has the most of
    ``(1 - diversity) * score - diversity * likeness``, the score scaled to 0 to 1 over the candidates, the
    likeness being the largest cosine with an item chosen before.

    Args:
        scores: float32 ``[candidates]``, the highest first.
        vectors: float32 ``[candidates, width]``, of length 1.
        k: how many are wanted.
        diversity: 0 to 1.
    """
    spread = float(scores[0] - scores[-1]) if len(scores) else 0.0
    relevance = (scores - scores[-1:]) / (spread or 1.0)
    likeness = np.zeros(len(scores), dtype=np.float32)
    chosen: list[int] = []
    left = np.ones(len(scores), dtype=bool)
    for _ in range(min(k, len(scores))):
        gain = (1 - diversity) * relevance - diversity * likeness
        best = int(np.argmax(np.where(left, gain, -np.inf)))
        chosen.append(best)
        left[best] = False
        likeness = np.maximum(likeness, vectors @ vectors[best])
    return np.array(chosen, dtype=np.int64)


def _with_cold(
    items: LiveItems,
    user: NDArray[np.float32],
    wanted: Wanted,
    hidden: Collection[int],
    rows: Rows,
    scores: Scores,
) -> tuple[Rows, Scores]:
    """Let the best cold items take the last places of others, until there are as many as wanted."""
    cold = items.popularity(rows) == 0
    lacking = min(wanted.min_cold, wanted.k) - int(np.count_nonzero(cold))
    if lacking <= 0:
        return rows, scores
    among = items.among(wanted.conditions, cold=True)
    more, their = items.index.search(user, lacking, {*hidden, *rows.tolist()}, among)
    if wanted.levers:
        their = their + boosts(items, more, wanted)
    room = wanted.k - len(rows)
    going = np.flatnonzero(~cold)[::-1][: max(0, len(more) - room)]
    rows = np.concatenate([np.delete(rows, going), more])
    scores = np.concatenate([np.delete(scores, going), their])
    if not wanted.diversity:
        order = np.argsort(-scores, kind="stable")
        rows, scores = rows[order], scores[order]
    return rows, scores
