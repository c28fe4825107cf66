"""The catalogue in two dimensions, for people to look at: t-SNE of item vectors."""

import numpy as np
from numpy.typing import NDArray

LAID_OUT = 8000  # items that t-SNE places; the others go between those they are like
NEIGHBOURS = 5
QUANTILE = 0.999  # of distances from the middle: what lies farther out is moved to the edge


def catalogue_places(vectors: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    """Return a place for each item, near those of items whose vectors point the same way.

    Args:
        vectors: float32 ``[items, width]``.
        seed: of which items are laid out first, where not all can be.

    Returns:
        float32 ``[items, 2]``, each within -1 and 1.
    """
    from sklearn.manifold import TSNE  # slow to import
    from sklearn.neighbors import NearestNeighbors

    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors / np.maximum(lengths, np.finfo(np.float32).tiny)
    order = np.random.default_rng(seed).permutation(len(unit))
    first, others = np.sort(order[:LAID_OUT]), order[LAID_OUT:]
    places = np.zeros((len(unit), 2), dtype=np.float32)
    if len(first) > NEIGHBOURS:
        perplexity = min(30.0, (len(first) - 1) / 3)
        layout = TSNE(perplexity=perplexity, init="pca", random_state=seed)
        places[first] = layout.fit_transform(unit[first])
    if len(others):
        nearest = NearestNeighbors(n_neighbors=NEIGHBOURS).fit(unit[first])
        found = nearest.kneighbors(unit[others], return_distance=False)
        places[others] = places[first][found].mean(1)
    places -= np.median(places, axis=0)
    farthest = np.quantile(np.abs(places).max(1), QUANTILE) or 1.0
    scaled: NDArray[np.float32] = np.clip(places / farthest, -1, 1)
    return scaled
