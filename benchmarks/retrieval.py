"""Recommending, measured: how long `/recommend` takes, and whether it tells what evaluation does.

    python benchmarks/retrieval.py BUNDLE data/beauty       # some minutes on two cores

The bundle must be of that data. Latencies are of a service of its own process, asked over HTTP; quality
is that of `POST /recommend/batch` on the test split next to `llmemb evaluate`. Writes
``results/retrieval.json``.
"""

import argparse
import asyncio
import itertools
import json
import tempfile
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from load import closed_loop, figures
from report import must_show, write_report
from rich.progress import track
from serve import llmemb
from torch.nn.utils.rnn import pad_sequence

from llmemb.bundle import Bundle, read_bundle
from llmemb.metrics import ranking_metrics
from service.faiss_index import FaissIndex
from service.telemetry import Metrics
from service.user_vectors import UserVectors
from trainer.dataset import Dataset, read_dataset
from trainer.evaluate import backbone_scorer, evaluation_report, ranks

CLIENTS = (1, 32)
SECONDS, ROUNDS = 10, 3
P99_MS = 10
USERS = 5000  # whose lists are compared one by one
AGREES = 1e-5
BATCH = 200


def main() -> None:
    """Measure and write ``results/retrieval.json``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("data", type=Path, help="the prepared data that it was trained on")
    arguments = parser.parse_args()
    bundle, data = read_bundle(arguments.bundle), read_dataset(arguments.data)
    ids = data.catalogue.ids
    histories = [[ids[i] for i in history] for history in data.split.histories("test")]
    with (
        tempfile.TemporaryDirectory(prefix="llmemb-retrieval-") as name,
        llmemb(arguments.bundle, Path(name)) as running,
    ):
        latency = latencies(f"{running.url}/recommend", histories)
        answered = list(recommended(f"{running.url}/recommend/batch", histories))
    inner = {"backbone_ms": backbone_ms(bundle, data), "index_ms": index_ms(bundle)}
    inner["share_of_p50_that_is_neither"] = round(
        1 - sum(inner.values()) / latency["1"]["p50_ms"], 3
    )
    quality = agreement(bundle, data, answered)
    print(
        write_report(
            "retrieval",
            f"/recommend over {len(ids)} items of {data.facts.name}, CPU",
            ROUNDS,
            promises(latency, quality),
            latency=latency,
            inside=inner,
            quality=quality,
        )
    )


def latencies(url: str, histories: list[list[str]]) -> dict[str, Any]:
    """Return the figures of each number of clients, of the round of median p99."""
    bodies = [json.dumps({"sequence": one, "k": 10}).encode() for one in histories]
    found = {}
    for clients in CLIENTS:
        rounds = [
            figures(closed_loop(url, itertools.cycle(bodies), clients, SECONDS))
            for _ in range(ROUNDS)
        ]
        found[str(clients)] = sorted(rounds, key=lambda one: float(one["p99_ms"]))[ROUNDS // 2]
    return found


def recommended(url: str, histories: list[list[str]]) -> Any:
    """Yield each user's list of ids and scores, the ten best of all items."""
    for start in track(range(0, len(histories), BATCH), description="asking"):
        requests = [
            {"sequence": one, "k": 10, "exclude_seen": False}
            for one in histories[start : start + BATCH]
        ]
        asked = urllib.request.Request(
            url,
            json.dumps({"requests": requests}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(asked) as answer:
            for one in json.load(answer)["results"]:
                yield [(item["id"], item["score"]) for item in one["items"]]


def backbone_ms(bundle: Bundle, data: Dataset) -> float:
    """Return the median time of one user's pass through the backbone, on one thread."""
    torch.set_num_threads(1)
    took = []
    with torch.inference_mode():
        for history in data.split.histories("test")[:1000]:
            recent = torch.from_numpy(
                bundle.item_vectors[history[-bundle.manifest.srs.max_length :]]
            )
            began = time.perf_counter()
            bundle.backbone.user_vectors(recent[None], torch.tensor([len(recent)]))
            took.append(time.perf_counter() - began)
    return round(float(np.median(took)) * 1e3, 3)


def index_ms(bundle: Bundle) -> float:
    """Return the median time of one search for ten items."""
    index = FaissIndex(bundle.item_vectors)
    took = []
    for query in bundle.item_vectors[:1000]:
        began = time.perf_counter()
        index.search(query, 10, range(9))
        took.append(time.perf_counter() - began)
    return round(float(np.median(took)) * 1e3, 3)


def agreement(
    bundle: Bundle, data: Dataset, answered: list[list[tuple[str, float]]]
) -> dict[str, Any]:
    """Compare what the service answered with what the trainer's evaluation computes."""
    split = data.split
    scorer = backbone_scorer(bundle.backbone, torch.from_numpy(bundle.item_vectors))
    report = evaluation_report(ranks(scorer, split, "test"), split, "test")["full"]["all"]
    targets = [data.catalogue.ids[target] for target in split.targets("test")]
    places = np.array(
        [
            next((place for place, (one, _) in enumerate(found) if one == target), len(targets))
            for found, target in zip(answered, targets, strict=True)
        ]
    )
    served = ranking_metrics(places)
    largest, same = 0.0, 0
    histories = split.histories("test")[:USERS]
    for start in range(0, len(histories), BATCH):
        with torch.inference_mode():
            best = scorer(histories[start : start + BATCH]).topk(10)
        for found, scores, rows in zip(
            answered[start:], best.values.tolist(), best.indices.tolist(), strict=False
        ):
            theirs = dict(zip([data.catalogue.ids[row] for row in rows], scores, strict=True))
            ours = dict(found)
            largest = max(largest, *np.abs(np.subtract(list(ours.values()), scores)))
            # An item may be missing if what stands in its place has the same score.
            missing = [theirs[one] for one in theirs.keys() - ours.keys()]
            same += all(score <= min(scores) + AGREES for score in missing)
    return {
        "users": len(targets),
        "served": {name: served[name] for name in ("HR@10", "NDCG@10")},
        "evaluated": {name: report[name] for name in ("HR@10", "NDCG@10")},
        "users_compared": len(histories),
        "largest_difference_of_user_vectors": asyncio.run(user_vectors_differ(bundle, histories)),
        "largest_difference_of_scores": float(largest),
        "users_with_the_same_ten": same,
    }


async def user_vectors_differ(bundle: Bundle, histories: list[Any]) -> float:
    """Return the largest difference of the service's user vectors from those of a trainer's batch."""
    most = bundle.manifest.srs.max_length
    sequences = [bundle.item_vectors[history[-most:]] for history in histories]
    with ThreadPoolExecutor(1) as thread:
        users = UserVectors(bundle.backbone, executor=thread, metrics=Metrics())
        found = np.stack(await asyncio.gather(*map(users.of, sequences)))
    batch = pad_sequence([torch.from_numpy(one) for one in sequences], batch_first=True)
    lengths = torch.tensor([len(one) for one in sequences])
    with torch.inference_mode():
        expected = bundle.backbone.user_vectors(batch, lengths).numpy()
    return float(np.abs(found - expected).max())


def promises(latency: dict[str, Any], quality: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what was promised, and whether it holds."""
    p99 = latency["1"]["p99_ms"]
    found = [must_show("/recommend, 1 client: p99, ms", p99, f"<= {P99_MS}", p99 <= P99_MS)]
    for name in ("HR@10", "NDCG@10"):
        values = [round(quality[which][name], 4) for which in ("served", "evaluated")]
        line = f"{name} of the API's own lists on the test split, evaluated: {values[1]}"
        found.append(must_show(line, values[0], "the same", values[0] == values[1]))
    users = quality["users_compared"]
    for what in ("user_vectors", "scores"):
        largest = quality[f"largest_difference_of_{what}"]
        line = f"{what.replace('_', ' ')} of {users} users, largest difference from the trainer's"
        found.append(must_show(line, largest, f"<= {AGREES}", largest <= AGREES))
    same = quality["users_with_the_same_ten"]
    found.append(must_show("users with the trainer's ten items", same, f"{users}", same == users))
    return found


if __name__ == "__main__":
    main()
