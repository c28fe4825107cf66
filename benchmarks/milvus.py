"""The index by its engine: FAISS in the process, and Milvus over the wire.

    python benchmarks/milvus.py                                   # Milvus Lite, a server of its own here
    python benchmarks/milvus.py --uri http://host:19530/database  # a cluster

Vectors are synthetic, as in ``retrieval_index.py``. Each engine ranks as the service does, filter included;
they take turns. Then items come, the indexes are built anew, and the items are looked for. Writes
``results/milvus.json``.
"""

import argparse
import contextlib
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from report import must_show, write_report
from retrieval_index import figures, middle, prepared
from retrieval_index_workers import FILTERS, K

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from llmemb.errors import LLMEmbError  # noqa: E402
from service.faiss_index import FaissIndex  # noqa: E402
from service.filters import Condition  # noqa: E402
from service.index import Facts, ItemIndex, own_keys  # noqa: E402
from service.live_items import LiveItems  # noqa: E402
from service.milvus import Milvus, MilvusCollection  # noqa: E402
from service.milvus_index import MilvusIndex  # noqa: E402
from service.ranking import Wanted, ranked  # noqa: E402

ITEMS, LIVE = 100_000, 200
# Milvus Lite applies a filter to one item after the other: a query takes seconds.
ROUNDS, ASKED, WARM_UP = 3, 20, 2
RECALL = 0.98
COLLECTION = "llmemb_benchmark"
START_SECONDS = 60.0
SEARCH_SECONDS = 30.0


def main() -> None:
    """Measure and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--uri", help="of a Milvus; its collection of this benchmark is replaced")
    parser.add_argument("--items", type=int, default=ITEMS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    arguments = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="llmemb-milvus-")))
        truth = prepared(arguments.items, folder)
        vectors, queries, users = (
            np.load(folder / f"{name}.npy") for name in ("vectors", "queries", "users")
        )
        uri = arguments.uri or stack.enter_context(milvus_lite(folder / "milvus"))
        engines, found = built(uri, vectors, users)
        rounds: dict[tuple[str, str], list[dict[str, float]]] = {}
        for _ in range(arguments.rounds):
            for engine, items in engines.items():
                for share, best in truth.items():
                    one = asked(items, queries[:ASKED], share)
                    rounds.setdefault((engine, share), []).append(figures(one, best[:ASKED]))
        for (engine, share), these in rounds.items():
            case = "no filter" if share == "1" else f"filter keeps {share}"
            found[engine]["cases"][case] = middle(these)
        for engine, items in engines.items():
            found[engine]["live"] = changed(items, queries)
    path = write_report(
        "milvus",
        f"{K} nearest of {arguments.items:,} clustered unit vectors, {vectors.shape[1]} dimensions, by the "
        "engine of the index; milliseconds",
        arguments.rounds,
        promises(found, arguments.items),
        items=arguments.items,
        milvus="a cluster" if arguments.uri else "Milvus Lite, in a process of its own",
        engines=found,
    )
    print(path)


@contextlib.contextmanager
def milvus_lite(folder: Path) -> Iterator[str]:
    """Run Milvus Lite as a server, so that every search goes over the wire; yield its URI."""
    with socket.socket() as some:
        some.bind(("127.0.0.1", 0))
        port = some.getsockname()[1]
    program = Path(sys.executable).with_name("milvus-lite")
    command = [program, "server", "--data-dir", folder, "--host", "127.0.0.1", "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
        try:
            end = time.monotonic() + START_SECONDS
            while True:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                    break
                if time.monotonic() > end:
                    raise LLMEmbError("Milvus Lite did not start")
                time.sleep(0.1)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.kill()


def built(
    uri: str, vectors: np.ndarray, users: np.ndarray
) -> tuple[dict[str, LiveItems], dict[str, dict[str, Any]]]:
    """Return the items with each engine's index, and what building it took."""
    ids = [str(row) for row in range(len(vectors))]
    attributes = [{"hundredth": row % 100, "half": row % 2} for row in range(len(vectors))]
    facts = Facts(
        own_keys(len(ids)), ids, attributes, np.ones(len(ids), bool), np.empty(0, dtype=np.int64)
    )
    milvus = Milvus(uri, SEARCH_SECONDS)
    milvus.run(lambda client: client.drop_collection(COLLECTION))

    def in_milvus() -> ItemIndex:
        collection = MilvusCollection(milvus, COLLECTION, vectors.shape[1])
        index = MilvusIndex.of_bundle(vectors, facts, collection)
        milvus.run(lambda client: client.flush(COLLECTION, timeout=600))
        return index

    engines, found = {}, {}
    for engine, build in (
        ("faiss", lambda: FaissIndex(vectors, queries=users)),
        ("milvus", in_milvus),
    ):
        began = time.perf_counter()
        index = build()
        found[engine] = {"build_seconds": round(time.perf_counter() - began, 2), "cases": {}}
        engines[engine] = LiveItems(list(ids), list(attributes), index, trained={})
    return engines, found


def asked(items: LiveItems, queries: np.ndarray, share: str) -> dict[str, Any]:
    """Return the milliseconds and the rows of each query."""
    conditions = {}
    if share in FILTERS:
        name, value = FILTERS[share]
        conditions = {name: Condition(any=[value])}
    milliseconds, rows = [], []
    for i, query in enumerate([*queries[:WARM_UP], *queries]):
        began = time.perf_counter()
        best, _ = ranked(
            items, query, Wanted(K, conditions), excluded=(), repeated=(), repeat_bias=0.0
        )
        if i >= WARM_UP:
            milliseconds.append((time.perf_counter() - began) * 1000)
            rows.append([row for row, _ in best])
    return {"ms": milliseconds, "rows": rows}


def changed(items: LiveItems, queries: np.ndarray) -> dict[str, Any]:
    """Put items where the queries are, and remove what was nearest; return what became of it."""
    live = min(LIVE, len(queries))
    nearest = [items.index.search(query, 1)[0][0] for query in queries[:live]]
    for item_id in {items.id_at(row) for row in nearest}:
        items.remove(item_id)
    began = time.perf_counter()
    for i, query in enumerate(queries[:live]):
        items.put(f"live {i}", {"half": i % 2}, query, key=i + 1)
    put = time.perf_counter() - began
    found = {"put_ms": round(1000 * put / live, 4), "found_at_once": share_found(items, queries)}
    began = time.perf_counter()
    items = items.compacted(np.flatnonzero(items.index.present()))
    found["build_anew_seconds"] = round(time.perf_counter() - began, 2)
    time.sleep(items.index.settle_seconds)
    found["found_after"] = share_found(items, queries)
    return found


def share_found(items: LiveItems, queries: np.ndarray) -> float:
    """Return how many of the live items are the nearest to where they were put."""
    live = min(LIVE, len(queries))
    nearest = [items.id_at(items.index.search(query, 1)[0][0]) for query in queries[:live]]
    return sum(one == f"live {i}" for i, one in enumerate(nearest)) / live


def promises(found: dict[str, dict[str, Any]], items: int) -> list[dict[str, Any]]:
    """Return what was promised, and whether it holds."""
    lines = []
    for engine, one in found.items():
        for case, figures_of in one["cases"].items():
            recall = figures_of["recall"]
            line = f"{engine}, {items:,} items, {case}: recall@{K}"
            lines.append(must_show(line, recall, f">= {RECALL}", recall >= RECALL))
        at_once = one["live"]["found_at_once"]
        line = f"{engine}: items found as soon as they are put"
        lines.append(must_show(line, at_once, "== 1", at_once == 1))
    return lines


if __name__ == "__main__":
    main()
