"""What the quality report promises, computed from the measured rows; and the paired bootstrap."""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from quality_rows import BACKBONES, Measured, Rows, held_out
from report import must_show

from llmemb.interactions import LeaveOneOut
from llmemb.metrics import ndcg
from trainer.dataset import Dataset

RESAMPLES = 10_000
GROUPS = ("all", "tail")
# NDCG@10 under ``unseen``, as eSASRec's authors gather it.
PUBLISHED_BEST = {"amazon-beauty": 0.0531}


def gains(measured: dict[int, Measured]) -> NDArray[np.float64]:
    """Return each test user's NDCG@10 in full ranking, averaged over seeds; float64 ``[users]``."""
    return np.mean([ndcg(one.ranks, 10) for one in measured.values()], axis=0)


def resampled_means(difference: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the means of ``RESAMPLES`` draws of users with replacement, float64 ``[draws]``."""
    rng, n = np.random.default_rng(0), len(difference)
    return np.concatenate(
        [
            difference[rng.integers(n, size=(100, n), dtype=np.int32)].mean(1)
            for _ in range(RESAMPLES // 100)
        ]
    )


def paired_bootstrap(better: NDArray[np.float64], worse: NDArray[np.float64]) -> float:
    """Return the one-sided p-value of ``better`` having the higher mean (Koehn, EMNLP 2004).

    It is the share of draws of users, plus one in both counts, in which the difference is not
    positive.
    """
    lost = int((resampled_means(better - worse) <= 0).sum())
    return (lost + 1) / (RESAMPLES + 1)


def best_of(rows: Rows, prefix: str, group: str = "all") -> str | None:
    """Return the row, of those whose name starts so, with the best NDCG@10 in full ranking."""
    named = [name for name in rows if name.startswith(prefix)]
    return max(named, key=lambda name: _mean(rows[name], "full", group, "NDCG@10"), default=None)


def promises(rows: Rows, data: Dataset) -> list[dict[str, Any]]:
    """Return what can be said from the rows that are there."""
    split = data.split
    return [
        *_published(rows, data.facts.name),
        *_default(rows),
        *_each_backbone(rows, split),
        *_cold_items(rows, data),
        *_paper(rows),
        *_llm(rows, split),
        *_peer(rows),
    ]


def _published(rows: Rows, data: str) -> Iterator[dict[str, Any]]:
    if "default/sasrec" in rows and data in PUBLISHED_BEST:
        value = _mean(rows["default/sasrec"], "unseen", "all", "NDCG@10")
        line = "default/sasrec: NDCG@10 overall, unseen, against the best published"
        yield _at_least(line, value, PUBLISHED_BEST[data])


def _default(rows: Rows) -> Iterator[dict[str, Any]]:
    if "default/sasrec" not in rows:
        return
    default = rows["default/sasrec"]
    for group, least in (("tail", 2.0), ("head", 0.98)):
        if best := best_of(rows, "id/", group):
            line = (
                f"default/sasrec: {group} NDCG@10, full, over the ID-only row best at it ({best})"
            )
            yield _at_least(line, _ratio(default, rows[best], "full", group, "NDCG@10"), least)
    if levers := rows.get("id-levers/sasrec"):
        line = (
            "default/sasrec: tail NDCG@10, full, over IDs with the same levers (id-levers/sasrec)"
        )
        yield _at_least(line, _ratio(default, levers, "full", "tail", "NDCG@10"), 1)


def _each_backbone(rows: Rows, split: LeaveOneOut) -> Iterator[dict[str, Any]]:
    for backbone, group in itertools.product(BACKBONES, GROUPS):
        name, best = f"default/{backbone}", best_of(rows, f"id/{backbone}/", group)
        if name in rows and best is not None:
            yield _better(f"{name} against {best}", rows[name], rows[best], group, split)


def _cold_items(rows: Rows, data: Dataset) -> Iterator[dict[str, Any]]:
    cold = rows.get("cold/default/sasrec")
    if cold is None:
        return
    ratio = _mean(cold, "full", "cold", "HR@10") / _mean(cold, "full", "warm_tail", "HR@10")
    yield _at_least("strictly cold items: HR@10, full, over the warm tail's", ratio, 0.5)
    held = held_out(data).split.held_out[data.split.targets("test")]
    for name in ("default/sasrec", best_of(rows, "id/sasrec/")):
        if name in rows:
            line = (
                f"strictly cold items: HR@10, full, over that of {name}, which was trained on them"
            )
            yield _at_least(line, _hit_rate(cold, held) / _hit_rate(rows[name], held), 0.5)


def _paper(rows: Rows) -> Iterator[dict[str, Any]]:
    for backbone in BACKBONES:
        name, plain = f"paper/{backbone}", f"paper-id/{backbone}"
        if name not in rows or plain not in rows:
            continue
        for group in GROUPS:
            gain = _ratio(rows[name], rows[plain], "sampled100", group, "NDCG@10")
            line = f"{name} over the same backbone on IDs, 1+100, NDCG@10, {group}"
            yield must_show(line, round(gain, 3), "> 1", gain > 1)


def _llm(rows: Rows, split: LeaveOneOut) -> Iterator[dict[str, Any]]:
    if "default/sasrec" not in rows:
        return
    for what, name in (("SCFT", "raw/sasrec"), ("the LLM", "tfidf/sasrec")):
        for group in GROUPS if name in rows else ():
            line = f"{what} pays: default/sasrec against {name}"
            yield _better(line, rows["default/sasrec"], rows[name], group, split)


def _peer(rows: Rows) -> Iterator[dict[str, Any]]:
    if "rectools/sasrec" not in rows:
        return
    theirs = _mean(rows["rectools/sasrec"], "full", "all", "NDCG@10")
    for name in ("default/sasrec", "id/sasrec/softmax"):
        if name in rows:
            difference = _mean(rows[name], "full", "all", "NDCG@10") - theirs
            line = f"NDCG@10, full, of {name} less that of rectools/sasrec"
            yield _at_least(line, difference, 0)


def _at_least(line: str, value: float, least: float) -> dict[str, Any]:
    return must_show(line, round(value, 5), f">= {least}", value >= least)


def _better(
    line: str,
    ours: dict[int, Measured],
    theirs: dict[int, Measured],
    group: str,
    split: LeaveOneOut,
) -> dict[str, Any]:
    """Return whether users are served better: all of them, or those whose target is a tail item."""
    tail = ~split.head[split.targets("test")]
    users = tail if group == "tail" else np.ones_like(tail)
    p = paired_bootstrap(gains(ours)[users], gains(theirs)[users])
    what = f"{line}, {group}: p, paired bootstrap of NDCG@10"
    return must_show(what, round(p, 5), "< .01", p < 0.01)


def _mean(seeds: dict[int, Measured], protocol: str, group: str, metric: str) -> float:
    return float(np.mean([one.report[protocol][group][metric] for one in seeds.values()]))


def _hit_rate(seeds: dict[int, Measured], users: NDArray[np.bool_]) -> float:
    """Return HR@10 of some users, full ranking."""
    return float(np.mean([one.ranks[users] < 10 for one in seeds.values()]))


def _ratio(
    ours: dict[int, Measured], theirs: dict[int, Measured], protocol: str, group: str, metric: str
) -> float:
    return _mean(ours, protocol, group, metric) / _mean(theirs, protocol, group, metric)
