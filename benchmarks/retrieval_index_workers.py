"""Ways to search among vectors, each in its own process; `retrieval_index.py` starts them.

    python retrieval_index_workers.py WAY FOLDER

Reads ``vectors.npy``, ``queries.npy`` and ``users.npy`` of the folder and prints what building took. Then,
for each line ``SETTING QUERIES``, it searches for the first queries and prints milliseconds and rows. The
setting is, for us, the share of the items that a filter keeps, and for peers how hard they search.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

K = 10
FILTERS = {"0.01": ("hundredth", 0), "0.5": ("half", 0)}  # share kept: attribute and its value
HNSW = {"M": 16, "ef_construction": 200}  # hnswlib's defaults

Search = Callable[[np.ndarray, str], Any]
"""Takes a query and the setting; returns rows."""


def resident() -> int:
    """Return the bytes of memory that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def llmemb(vectors: np.ndarray, users: np.ndarray, *, exact: bool = False) -> tuple[Search, Any]:
    """Rank as the service does: conditions, search, scores."""
    sys.path.insert(0, str(Path(__file__).parent.parent))
    from service import faiss_index
    from service.filters import Condition
    from service.live_items import LiveItems
    from service.ranking import Wanted, ranked

    if exact:
        faiss_index.EXACT_ITEMS = len(vectors)
    before = resident()
    began = time.perf_counter()
    index = faiss_index.FaissIndex(vectors, queries=users)
    built = {
        "build_seconds": round(time.perf_counter() - began, 2),
        # It keeps the vectors that it was given.
        "bytes_per_item": round((resident() - before + vectors.nbytes) / len(vectors)),
        "lists": index.lists,
        "probes": index.probes,
        "recall_at_build": index.recall,
    }
    ids = [str(row) for row in range(len(vectors))]
    attributes = [{"hundredth": row % 100, "half": row % 2} for row in range(len(vectors))]
    items = LiveItems(ids, attributes, index, trained={})
    conditions = {share: {name: Condition(any=[value])} for share, (name, value) in FILTERS.items()}

    def search(query: np.ndarray, setting: str) -> list[int]:
        wanted = Wanted(K, conditions.get(setting, {}))
        found, _ = ranked(items, query, wanted, excluded=(), repeated=(), repeat_bias=0.0)
        return [row for row, _ in found]

    return search, built


def hnswlib(vectors: np.ndarray, _users: np.ndarray) -> tuple[Search, Any]:
    """Run hnswlib with the settings of its documentation."""
    import hnswlib as peer

    before, began = resident(), time.perf_counter()
    index = peer.Index("ip", vectors.shape[1])
    index.init_index(len(vectors), **HNSW)
    index.add_items(vectors)
    built = _built(before, began, vectors)
    index.set_num_threads(1)

    def search(query: np.ndarray, setting: str) -> np.ndarray:
        index.set_ef(int(setting))
        return np.asarray(index.knn_query(query, K)[0][0])

    return search, built | HNSW


def usearch(vectors: np.ndarray, _users: np.ndarray) -> tuple[Search, Any]:
    """Run USearch with its own defaults."""
    from usearch.index import Index

    before, began = resident(), time.perf_counter()
    index = Index(ndim=vectors.shape[1], metric="ip")
    index.add(np.arange(len(vectors)), vectors)
    built = _built(before, began, vectors)

    def search(query: np.ndarray, setting: str) -> np.ndarray:
        index.expansion_search = int(setting)
        return np.asarray(index.search(query, K).keys)

    return search, built | {"dtype": str(index.dtype), "connectivity": index.connectivity}


def _built(before: int, began: float, vectors: np.ndarray) -> dict[str, Any]:
    return {
        "build_seconds": round(time.perf_counter() - began, 2),
        "bytes_per_item": round((resident() - before) / len(vectors)),
    }


WAYS: dict[str, Callable[[np.ndarray, np.ndarray], tuple[Search, Any]]] = {
    "llmemb": llmemb,
    "llmemb exact": lambda vectors, users: llmemb(vectors, users, exact=True),
    "hnswlib": hnswlib,
    "usearch": usearch,
}


def main() -> None:
    """Build, then search as each line asks."""
    way, folder = sys.argv[1], Path(sys.argv[2])
    vectors, queries, users = (
        np.load(folder / f"{name}.npy") for name in ("vectors", "queries", "users")
    )
    search, built = WAYS[way](vectors, users)
    print(json.dumps(built), flush=True)
    for line in sys.stdin:
        setting, count = line.split()
        took, rows = [], []
        for query in queries[: int(count)]:
            began = time.perf_counter()
            found = search(query, setting)
            took.append((time.perf_counter() - began) * 1e3)
            rows.append([int(row) for row in found])
        print(json.dumps({"ms": took, "rows": rows}), flush=True)


if __name__ == "__main__":
    main()
