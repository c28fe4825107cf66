"""PCA and whitening of LLM vectors."""

import numpy as np
import pytest

from llmemb.projection import Projection, fit_projection

RNG = np.random.default_rng(0)
VECTORS = (RNG.normal(size=(200, 8)) @ RNG.normal(size=(8, 16)) + 3).astype(np.float16)


def test_whitening_gives_unit_uncorrelated_directions() -> None:
    projected = fit_projection(VECTORS, 6, "whiten")(VECTORS)
    assert np.cov(projected.T) == pytest.approx(np.eye(6), abs=0.02)
    assert projected.mean(0) == pytest.approx(np.zeros(6), abs=1e-3)


def test_pca_keeps_the_relative_variances() -> None:
    variances = fit_projection(VECTORS, 6, "pca")(VECTORS).var(0)
    assert variances.mean() == pytest.approx(1, rel=0.02)
    assert (np.diff(variances) < 0).all()
    assert variances[0] > 3 * variances[-1]


@pytest.mark.parametrize("kind", ["pca", "whiten"])
def test_the_same_vectors_give_the_same_projection(kind: str) -> None:
    one, other = fit_projection(VECTORS, 6, kind), fit_projection(VECTORS.copy(), 6, kind)
    assert np.array_equal(one.matrix, other.matrix)


def test_width_is_cut_to_what_the_items_support() -> None:
    projection = fit_projection(VECTORS[:4], 256, "whiten")
    assert projection.dimensions == 3
    assert np.isfinite(projection(VECTORS)).all()


def test_identical_items_do_not_blow_up() -> None:
    same = np.ones((5, 8), dtype=np.float16)
    assert np.isfinite(fit_projection(same, 4, "whiten")(same)).all()


def test_tensors_come_back() -> None:
    projection = fit_projection(VECTORS, 6, "pca")
    again = Projection.from_tensors(projection.tensors())
    assert np.array_equal(again(VECTORS), projection(VECTORS))
