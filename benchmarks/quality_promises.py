"""What the quality report promises, computed from the measured rows; and the paired bootstrap."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from quality_rows import BACKBONES, Found, Measured
from report import must_show

from llmemb.interactions import LeaveOneOut

RESAMPLES = 10_000
PUBLISHED_BEST = 0.0531  # NDCG@10 on Amazon Beauty under ``unseen``, as eSASRec's authors gather it


def gains(measured: dict[int, Measured]) -> NDArray[np.float64]:
    """Return each test user's NDCG@10 in full ranking, averaged over seeds; float64 ``[users]``."""
    ranks = np.stack([one.ranks.full for one in measured.values()])
    return np.where(ranks < 10, 1 / np.log2(ranks + 2.0), 0.0).mean(0)


def paired_bootstrap(better: NDArray[np.float64], worse: NDArray[np.float64]) -> float:
    """Return the one-sided p-value of ``better`` having the higher mean (Koehn, EMNLP 2004).

    Users are drawn with replacement ``RESAMPLES`` times; p is the share of draws, plus one in both
    counts, in which the difference is not positive.
    """
    difference = better - worse
    rng = np.random.default_rng(0)
    lost = 0
    for _ in range(RESAMPLES // 100):
        drawn = rng.integers(len(difference), size=(100, len(difference)), dtype=np.int32)
        lost += int((difference[drawn].mean(1) <= 0).sum())
    return (lost + 1) / (RESAMPLES + 1)


def promises(found: Found, split: LeaveOneOut) -> list[dict[str, Any]]:
    """Return what can be said from the rows that are there."""
    rows = {row.name: seeds for row, seeds in found.items()}
    tail = ~split.head[split.targets("test")]
    made: list[dict[str, Any]] = []
    ids = {
        backbone: {
            name: seeds for name, seeds in rows.items() if name.startswith(f"id/{backbone}/")
        }
        for backbone in BACKBONES
    }
    if "default/sasrec" in rows and any(ids.values()):
        default = rows["default/sasrec"]
        value = _mean(default, "unseen", "all", "NDCG@10")
        made.append(
            must_show(
                "default/sasrec: NDCG@10 overall, unseen",
                round(value, 5),
                f">= {PUBLISHED_BEST}",
                value >= PUBLISHED_BEST,
            )
        )
        every = {name: seeds for some in ids.values() for name, seeds in some.items()}
        best = max(every, key=lambda name: _mean(every[name], "full", "all", "NDCG@10"))
        for group, least in (("tail", 2.0), ("head", 0.98)):
            ratio = _mean(default, "full", group, "NDCG@10") / _mean(
                every[best], "full", group, "NDCG@10"
            )
            made.append(
                must_show(
                    f"default/sasrec: {group} NDCG@10, full, over the best ID-only row ({best})",
                    round(ratio, 3),
                    f">= {least}",
                    ratio >= least,
                )
            )
    for backbone in BACKBONES:
        name = f"default/{backbone}"
        if name not in rows or not ids[backbone]:
            continue
        own = ids[backbone]
        best = max(own, key=lambda row: _mean(own[row], "full", "all", "NDCG@10"))
        ours, theirs = gains(rows[name]), gains(own[best])
        for group, users in (("overall", np.ones_like(tail)), ("on the tail", tail)):
            p = paired_bootstrap(ours[users], theirs[users])
            made.append(
                must_show(
                    f"{name} against {best} {group}: p, paired bootstrap of NDCG@10",
                    round(p, 5),
                    "< .01",
                    p < 0.01,
                )
            )
    if "cold/default/sasrec" in rows:
        cold = rows["cold/default/sasrec"]
        ratio = _mean(cold, "full", "cold", "HR@10") / _mean(cold, "full", "warm_tail", "HR@10")
        line = "strictly cold items: HR@10, full, over the warm tail's"
        made.append(must_show(line, round(ratio, 3), ">= .5", ratio >= 0.5))
    for backbone in BACKBONES:
        name, plain = f"paper/{backbone}", f"paper-id/{backbone}"
        if name in rows and plain in rows:
            for group in ("all", "tail"):
                gain = _mean(rows[name], "sampled100", group, "NDCG@10") / _mean(
                    rows[plain], "sampled100", group, "NDCG@10"
                )
                line = f"{name} over the same backbone on IDs, 1+100, NDCG@10, {group}"
                made.append(must_show(line, round(gain, 3), "> 1", gain > 1))
    if "raw/sasrec" in rows and "default/sasrec" in rows:
        p = paired_bootstrap(gains(rows["default/sasrec"]), gains(rows["raw/sasrec"]))
        line = "SCFT pays: default/sasrec against raw/sasrec, p of NDCG@10 overall"
        made.append(must_show(line, round(p, 5), "< .01", p < 0.01))
    if "rectools/sasrec" in rows and "id/sasrec/softmax" in rows:
        ours, theirs = rows["id/sasrec/softmax"], rows["rectools/sasrec"]
        ratio = _seconds(theirs) / _seconds(ours)
        line = "an epoch of RecTools' SASRec over one of ours, same shape, loss and batch"
        made.append(must_show(line, round(ratio, 2), ">= 3", ratio >= 3))
        difference = _mean(ours, "full", "all", "NDCG@10") - _mean(theirs, "full", "all", "NDCG@10")
        line = "NDCG@10, full, of id/sasrec/softmax less that of rectools/sasrec"
        made.append(must_show(line, round(difference, 5), ">= 0", difference >= 0))
    return made


def _mean(seeds: dict[int, Measured], protocol: str, group: str, metric: str) -> float:
    return float(np.mean([one.report[protocol][group][metric] for one in seeds.values()]))


def _seconds(seeds: dict[int, Measured]) -> float:
    return float(np.mean([one.train_seconds / one.epochs for one in seeds.values()]))
