"""The index, measured: from 10,000 to 3,000,000 items, and next to hnswlib and USearch.

    make .venv-ann/.done && python benchmarks/retrieval_index.py    # about half an hour on two cores

Vectors are synthetic: unit length, round centres of unequal size, in 128 dimensions; queries are drawn
like them. Each way has a process of its own, and they search in turns. Writes
``results/retrieval-index.json`` and ``docs/figures/retrieval-index.png``.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faiss
import matplotlib as mpl
import numpy as np
from report import must_show, write_report
from retrieval_index_workers import FILTERS, K

from llmemb.files import replacing_file

mpl.use("Agg")
from matplotlib import pyplot as plt

SIZES = (10_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000)
PROMISED = 1_000_000
WIDTH, ITEMS_A_CENTRE = 128, 500
QUERIES, FILTERED_QUERIES, USERS = 1000, 200, 256
ROUNDS = 5
EFFORTS = (32, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
P99_MS, RECALL, TIMES = 25, 0.98, 1.2
FIGURE = Path(__file__).parent.parent / "docs" / "figures" / "retrieval-index.png"


class Worker:
    """A way to search, in its own process."""

    def __init__(self, way: str, python: str, folder: Path) -> None:
        script = str(Path(__file__).with_name("retrieval_index_workers.py"))
        self.process = subprocess.Popen(
            [python, script, way, str(folder)],
            env={**os.environ, "OMP_NUM_THREADS": str(os.cpu_count())},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.built: dict[str, Any] = self._answer()

    def search(self, setting: float | str, queries: int = QUERIES) -> dict[str, Any]:
        """Search for the first so many queries; return their milliseconds and rows."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{setting} {queries}\n")
        self.process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """End the process."""
        self.process.communicate()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:  # libraries may print, too
            if line.startswith("{"):
                return dict(json.loads(line))
        raise RuntimeError(f"{self.process.args} ended")


def main() -> None:
    """Measure, write the JSON, draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", type=Path, default=Path(".venv-ann"), help="their environment")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, metavar="ITEMS")
    arguments = parser.parse_args()
    peers = arguments.peers / "bin" / "python"
    sizes: dict[str, Any] = {}
    compared: dict[str, Any] = {}
    for size in arguments.sizes:
        with tempfile.TemporaryDirectory(prefix="llmemb-index-") as name:
            truth = prepared(size, Path(name))
            with workers(["llmemb", "llmemb exact"], sys.executable, Path(name)) as ours:
                sizes[str(size)] = measured(ours, truth)
            if size == PROMISED and peers.exists():
                with (
                    workers(["llmemb"], sys.executable, Path(name)) as ours,
                    workers(["hnswlib", "usearch"], str(peers), Path(name)) as theirs,
                ):
                    compared = next_to_peers({**ours, **theirs}, truth["1"])
    path = write_report(
        "retrieval-index",
        f"{K} nearest of clustered unit vectors, {WIDTH} dimensions, CPU; milliseconds",
        ROUNDS,
        promises(sizes, compared),
        sizes=sizes,
        next_to_peers=compared,
    )
    draw(sizes, compared)
    print(path)


@contextlib.contextmanager
def workers(ways: list[str], python: str, folder: Path) -> Iterator[dict[str, Worker]]:
    """Build one after the other, so that none is in another's way."""
    found: dict[str, Worker] = {}
    try:
        for way in ways:
            found[way] = Worker(way, python, folder)
            print(f"{way}: {found[way].built}", file=sys.stderr)
        yield found
    finally:
        for worker in found.values():
            worker.close()


def prepared(size: int, folder: Path) -> dict[str, np.ndarray]:
    """Write vectors and queries; return the rows to be found, by the share that a filter keeps."""
    rng = np.random.default_rng(size)
    centres = rng.standard_normal((size // ITEMS_A_CENTRE, WIDTH), dtype=np.float32)
    popular = 1 / np.sqrt(np.arange(1, len(centres) + 1))

    def drawn(count: int) -> np.ndarray:
        found = centres[rng.choice(len(centres), count, p=popular / popular.sum())]
        found += rng.standard_normal(found.shape, dtype=np.float32)
        found /= np.linalg.norm(found, axis=1, keepdims=True)
        return found

    vectors, queries, users = drawn(size), drawn(QUERIES), drawn(USERS)
    for name, one in {"vectors": vectors, "queries": queries, "users": users}.items():
        np.save(folder / f"{name}.npy", one)
    truth = {"1": faiss.knn(queries, vectors, K, faiss.METRIC_INNER_PRODUCT)[1]}
    for share in FILTERS:
        rows = np.arange(0, size, round(1 / float(share)))
        some = queries[:FILTERED_QUERIES]
        truth[share] = rows[faiss.knn(some, vectors[rows], K, faiss.METRIC_INNER_PRODUCT)[1]]
    return truth


def measured(ours: dict[str, Worker], truth: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return the figures of our ways, by the share that a filter keeps."""
    found: dict[str, Any] = {way: {**worker.built, "cases": {}} for way, worker in ours.items()}
    rounds: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for _ in range(ROUNDS):
        for way, worker in ours.items():
            for share, best in truth.items():
                one = worker.search(share, len(best))
                rounds.setdefault((way, share), []).append(figures(one, best))
    for (way, share), these in rounds.items():
        case = "no filter" if share == "1" else f"filter keeps {share}"
        found[way]["cases"][case] = middle(these)
    return found


def next_to_peers(found: dict[str, Worker], truth: np.ndarray) -> dict[str, Any]:
    """Compare ours with each peer at the least effort that finds as much."""
    ours = figures(found["llmemb"].search(1), truth)["recall"]
    efforts = {"llmemb": 1}
    for peer in ("hnswlib", "usearch"):
        for effort in EFFORTS:
            efforts[peer] = effort
            if figures(found[peer].search(effort), truth)["recall"] >= ours:
                break
    rounds: dict[str, list[dict[str, Any]]] = {way: [] for way in found}
    for _ in range(ROUNDS):
        for way, worker in found.items():
            rounds[way].append(figures(worker.search(efforts[way]), truth))
    shown: dict[str, Any] = {
        way: {**found[way].built, "setting": efforts[way], **middle(some)}
        for way, some in rounds.items()
    }
    shown["times_of_the_faster_peer"] = [
        round(mine["p50"] / min(one["p50"], other["p50"]), 3)
        for mine, one, other in zip(*rounds.values(), strict=True)
    ]
    return shown


def figures(answer: dict[str, Any], truth: np.ndarray) -> dict[str, float]:
    """Return latencies and recall of one round."""
    hits = [
        len({*rows} & {*best}) for rows, best in zip(answer["rows"], truth.tolist(), strict=True)
    ]
    p50, p99 = np.percentile(answer["ms"], [50, 99])
    return {"p50": float(p50), "p99": float(p99), "recall": sum(hits) / truth.size}


def middle(rounds: list[dict[str, float]]) -> dict[str, float]:
    """Return the median of each figure over the rounds."""
    return {name: round(statistics.median(one[name] for one in rounds), 4) for name in rounds[0]}


def promises(sizes: dict[str, Any], compared: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what was promised, and whether it holds."""
    found = []
    if not (promised := sizes.get(str(PROMISED))):
        return found
    for case, one in promised["llmemb"]["cases"].items():
        least = RECALL if case == "no filter" else 1.0
        line = f"{PROMISED:,} items, {case}"
        p99, recall = one["p99"], one["recall"]
        found.append(must_show(f"{line}: p99, ms", p99, f"<= {P99_MS}", p99 <= P99_MS))
        found.append(must_show(f"{line}: recall@{K}", recall, f">= {least}", recall >= least))
    if compared:
        times = statistics.median(compared["times_of_the_faster_peer"])
        line = "median latency over that of the faster peer, at no less recall than ours"
        found.append(must_show(line, times, f"<= {TIMES}", times <= TIMES))
    return found


def draw(sizes: dict[str, Any], compared: dict[str, Any]) -> None:
    """Draw latency and memory by the number of items."""
    figure, (latency, memory) = plt.subplots(1, 2, figsize=(11, 4.2))
    items = [int(size) for size in sizes]
    cases = ("no filter", "filter keeps 0.5", "filter keeps 0.01")
    for way, style in (("llmemb", "-"), ("llmemb exact", ":")):
        for case, colour in zip(cases, ("C0", "C1", "C2"), strict=True):
            values = [sizes[size][way]["cases"][case]["p99"] for size in sizes]
            label = case if way == "llmemb" else f"{case}, float32 without lists"
            latency.plot(items, values, style, color=colour, marker=".", label=label)
        values = [sizes[size][way]["bytes_per_item"] for size in sizes]
        label = "LLMEmb" if way == "llmemb" else "LLMEmb, float32 without lists"
        memory.plot(items, values, style, color="C0", marker=".", label=label)
    for peer, marker in (("hnswlib", "x"), ("usearch", "+")):
        if peer in compared:
            latency.plot(PROMISED, compared[peer]["p99"], marker, color="black", label=peer)
            memory.plot(
                PROMISED, compared[peer]["bytes_per_item"], marker, color="black", label=peer
            )
    latency.set(xscale="log", yscale="log", xlabel="items", ylabel="p99 of one search, ms")
    memory.set(xscale="log", ylim=0, xlabel="items", ylabel="bytes an item, its vector included")
    for axes in (latency, memory):
        axes.grid(visible=True, alpha=0.3)
        axes.legend(fontsize=8)
    figure.tight_layout()
    FIGURE.parent.mkdir(parents=True, exist_ok=True)
    with replacing_file(FIGURE) as aside:
        figure.savefig(aside, dpi=120, format="png")


if __name__ == "__main__":
    main()
