"""Exact search over item vectors by inner product, and by cosine where the vectors have unit length."""

from collections.abc import Collection

import faiss
import numpy as np
from numpy.typing import NDArray


class ItemIndex:
    """Finds the items whose vectors have the largest inner product with a query."""

    def __init__(self, vectors: NDArray[np.float32]) -> None:
        """Take float32 ``[items, width]``; an item's row is its position in every answer."""
        self._size = len(vectors)
        self._index = faiss.IndexFlatIP(vectors.shape[1])
        self._index.add(np.ascontiguousarray(vectors))

    def search(
        self, query: NDArray[np.float32], k: int, excluded: Collection[int] = ()
    ) -> list[tuple[int, float]]:
        """Return ``(position, score)`` of the best items, best first.

        Args:
            query: float32 ``[width]``.
            k: how many are wanted.
            excluded: positions that may not be answered, each in the index.

        Returns:
            exactly ``min(k, items that are not excluded)`` of them.
        """
        out = set(excluded)
        k = min(k, self._size - len(out))
        if k <= 0:
            return []
        # Excluded inside the search, not after it: k items come back whatever the number excluded.
        selector = faiss.IDSelectorNot(faiss.IDSelectorBatch(np.array(sorted(out), dtype=np.int64)))
        parameters = faiss.SearchParameters()
        parameters.sel = selector
        scores, positions = self._index.search(query[np.newaxis], k, params=parameters)
        return list(zip(positions[0].tolist(), scores[0].tolist(), strict=True))


def unit_length(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale float32 ``[..., width]`` to length 1, so that inner product is cosine; zero stays zero."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, np.finfo(np.float32).tiny), dtype=np.float32)
