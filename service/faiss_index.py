"""The index of FAISS, in this process.

Few items are searched exactly. Many are put into inverted lists, in numbers of less precision, of which a
search without a filter reads some; how many is measured when they are built. With a filter all are read.
The best that are found are scored again by their vectors as they were given.
"""

import math
import threading
from typing import Any, Literal

import faiss
import numpy as np
from numpy.typing import NDArray

from service.index import SPARE, Among, Facts, ItemIndex, Rows, Vectors

EXACT_ITEMS = 50_000  # up to here exact search takes about a millisecond
DEPTHS = (10, 30, 100, 300)  # how many items are wanted; for more all lists are read
RECALL = 0.99  # the share of the best so many that a search must find on average
SAMPLED = 256  # queries that recall is measured with
TRAINED_ON = 40  # vectors a list, to place its centre
GROWTH = 2.0  # lists are placed anew where there are so many times more, or fewer, items
WIDE = 0.05  # a filter that keeps a larger share is applied after the search, a narrower one inside
WIDE_TIMES = 1.5  # items found for a wide filter to choose from, besides what its share asks for
GPU_LARGEST_K = 2048

Storage = Literal["float16", "int8"]
_FAISS_NAME = {"float16": "SQfp16", "int8": "SQ8"}


class FaissIndex(ItemIndex):
    """FAISS searches; without lists, every search is exact."""

    engine = "faiss"

    def __init__(
        self,
        vectors: Vectors,
        *,
        queries: Vectors | None = None,
        storage: Storage = "float16",
        like: "FaissIndex | None" = None,
    ) -> None:
        """Take float32 ``[items, width]``; an item's row is its position in every answer.

        Args:
            vectors: float32 ``[items, width]``; kept, not copied.
            queries: float32 ``[queries, width]``, such as will come, to measure recall with; None: some of
                the items.
            storage: of the numbers in the lists.
            like: an index of much the same items, whose lists can be used again.
        """
        super().__init__(vectors)
        self._queries, self._storage = queries, storage
        self._main: Any  # faiss has a type for each kind of index
        self._whole: Any  # what is read to the end
        self._empty: Any = None  # the lists, their centres placed
        self._gpu: Any = None
        if lists_of(len(vectors)):
            self._build_lists(like)
        else:
            self._main = faiss.IndexFlatIP(vectors.shape[1])
            self._main.add(vectors)
            self._whole = self._main

    def _build_lists(self, like: "FaissIndex | None") -> None:
        vectors = self._vectors
        self._trained_with = len(vectors)
        if like and like.lists and 1 / GROWTH < len(vectors) / like._trained_with < GROWTH:
            self._trained_with, self._empty = like._trained_with, like._empty
        if self._empty is None:
            lists = lists_of(len(vectors))
            name = f"IVF{lists},{_FAISS_NAME[self._storage]}"
            self._empty = faiss.index_factory(vectors.shape[1], name, faiss.METRIC_INNER_PRODUCT)
            sample = np.random.default_rng(0).permutation(len(vectors))[: TRAINED_ON * lists]
            self._empty.train(vectors[sample])
        self._main = faiss.clone_index(self._empty)
        self._main.add(vectors)
        self.lists = self._main.nlist
        # The same lists once more: threads share the work of reading all, and of a few they do not.
        self._whole = faiss.clone_index(self._empty)
        self._whole.replace_invlists(self._main.invlists, False)
        self._whole.ntotal, self._whole.parallel_mode = self._main.ntotal, 1
        if faiss.get_num_gpus():  # not yet run on one
            self._gpu = faiss.index_cpu_to_all_gpus(self._main)
            self._gpu_lock = threading.Lock()
        self._choose_probes()

    def _choose_probes(self) -> None:
        """For each depth, read twice as many lists until recall is as wanted."""
        queries = self._queries
        if queries is None:
            some = np.random.default_rng(1).permutation(len(self._vectors))[:SAMPLED]
            queries = self._vectors[some]
        _, best = faiss.knn(queries, self._vectors, DEPTHS[-1], faiss.METRIC_INNER_PRODUCT)
        probes = 1
        for depth in DEPTHS:
            self.probes[depth] = probes  # what `search` goes by
            while (recall := self._recall(queries, best[:, :depth])) < RECALL:
                if probes >= self.lists:
                    break
                self.probes[depth] = probes = min(2 * probes, self.lists)
            self.recall[depth] = recall

    def _recall(self, queries: Vectors, best: Rows) -> float:
        hits = [
            np.intersect1d(those, self.search(query, len(those))[0]).size
            for query, those in zip(queries, best, strict=True)
        ]
        return sum(hits) / best.size

    def rebuilt(self, rows: Rows, facts: Facts) -> "FaissIndex":
        """Return an index of some rows; the facts are not needed."""
        return FaissIndex(
            self.vectors(rows), queries=self._queries, storage=self._storage, like=self
        )

    def _candidates(
        self, query: Vectors, k: int, wanted: NDArray[np.bool_], hidden: int, among: Among | None
    ) -> Rows:
        """Return enough of the first rows.

        What is found first may hold rows that are not wanted. If enough others are among it, they are
        the best; if not, rows are chosen inside the search, where that costs more than the products.
        """
        count = int(np.count_nonzero(wanted))
        enough = min(k + SPARE, count)
        if enough == 0:
            return np.empty(0, dtype=np.int64)
        probes = self.lists
        if among is None:  # excluded are what is near: they are to be found before the others
            fitting = (self.probes[depth] for depth in self.probes if depth >= k + hidden)
            probes = next(fitting, self.lists)
        share = count / len(wanted)
        if share >= WIDE:
            more = min(len(wanted), int(WIDE_TIMES * enough / share) + hidden)
            rows = self._nearest(query, more, probes)
            found = rows[(rows >= 0) & wanted[rows]]
            if len(found) >= enough:
                return found
        bits = np.packbits(wanted, bitorder="little")
        parameters = _parameters(self.lists)
        parameters.sel = faiss.IDSelectorBitmap(len(bits), faiss.swig_ptr(bits))
        _, these = self._whole.search(query[np.newaxis], enough, params=parameters)
        return np.asarray(these[0])

    def _nearest(self, query: Vectors, k: int, probes: int) -> Rows:
        """Return the best of the first rows, removed ones too; -1 in places that none has."""
        parameters = _parameters(probes)
        if self._gpu and k <= GPU_LARGEST_K:
            with self._gpu_lock:  # its resources are one thread's at a time
                _, rows = self._gpu.search(query[np.newaxis], k, params=parameters)
        else:
            searched = self._main if probes < self.lists else self._whole
            _, rows = searched.search(query[np.newaxis], k, params=parameters)
        return np.asarray(rows[0])


def lists_of(items: int) -> int:
    """Return how many inverted lists so many items are put into; 0: they are searched exactly."""
    return 2 ** round(math.log2(4 * math.sqrt(items))) if items > EXACT_ITEMS else 0


def _parameters(probes: int) -> faiss.SearchParameters:
    if probes == 0:
        return faiss.SearchParameters()
    parameters = faiss.SearchParametersIVF()
    parameters.nprobe = probes
    return parameters
