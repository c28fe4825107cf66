"""PCA or PCA-whitening of LLM vectors, fitted on the training items, frozen from then on."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal["pca", "whiten"]

NOISE = 1e-9  # variance relative to the vectors' length below which it is rounding
RIDGE = 1e-3  # of the mean kept variance: keeps whitening from blowing up noise directions


@dataclass(frozen=True)
class Projection:
    """An affine map from LLM vectors to projected vectors.

    Attributes:
        mean: float32 ``[llm]``.
        matrix: float32 ``[llm, projected]``.
    """

    mean: NDArray[np.float32]
    matrix: NDArray[np.float32]

    @property
    def dimensions(self) -> int:
        """Width of the projected vectors."""
        return int(self.matrix.shape[1])

    def __call__(self, vectors: NDArray[np.floating]) -> NDArray[np.float32]:
        """Project float ``[items, llm]`` to float32 ``[items, projected]``."""
        centred = np.asarray(vectors, dtype=np.float32) - self.mean
        return np.asarray(centred @ self.matrix, dtype=np.float32)

    def tensors(self) -> dict[str, NDArray[np.float32]]:
        """Return what :meth:`from_tensors` takes, for ``projection.safetensors``."""
        return {"mean": self.mean, "matrix": np.ascontiguousarray(self.matrix)}

    @classmethod
    def from_tensors(cls, tensors: dict[str, NDArray[np.float32]]) -> "Projection":
        """Rebuild a projection from its tensors."""
        return cls(tensors["mean"], tensors["matrix"])


def fit_projection(vectors: NDArray[np.floating], dimensions: int, kind: Kind) -> Projection:
    """Fit a projection on the LLM vectors of the training items.

    Args:
        vectors: float ``[items, llm]``.
        dimensions: width wanted; cut to what the data can support (items - 1 and llm).
        kind: ``pca`` keeps the variances (overall scale set so that they average 1), ``whiten``
            gives every kept direction variance 1.
    """
    x = vectors.astype(np.float64)
    mean = x.mean(0)
    _, singular, directions = np.linalg.svd(x - mean, full_matrices=False)
    kept = max(1, min(dimensions, len(x) - 1, x.shape[1]))
    variance = singular[:kept] ** 2 / max(1, len(x) - 1)
    directions = directions[:kept]
    # An eigenvector's sign is arbitrary: fix it, so that the same vectors give the same projection.
    largest = np.abs(directions).argmax(1)
    directions *= np.sign(directions[np.arange(kept), largest])[:, None]
    average = float(variance.mean())
    if average <= NOISE * float((x**2).sum(1).mean()):
        scale = np.zeros(kept)  # items all alike: what they differ by is rounding, not meaning
    elif kind == "whiten":
        scale = 1 / np.sqrt(variance + RIDGE * average)
    else:
        scale = np.full(kept, 1 / np.sqrt(average))
    matrix = (directions.T * scale).astype(np.float32)
    return Projection(mean.astype(np.float32), np.ascontiguousarray(matrix))
