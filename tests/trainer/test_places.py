"""The catalogue as a map: what is alike lies together."""

import numpy as np
import pytest

from trainer import places
from trainer.places import catalogue_places


def clusters(items: int) -> tuple[np.ndarray, np.ndarray]:
    """Return vectors around four directions, and which one each is near."""
    rng = np.random.default_rng(0)
    which = rng.integers(4, size=items)
    middles = np.eye(4, 8, dtype=np.float32)
    return (middles[which] + 0.05 * rng.standard_normal((items, 8))).astype(np.float32), which


@pytest.mark.parametrize("laid_out", [1000, 100])
def test_items_lie_among_those_that_are_like_them(
    laid_out: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "LAID_OUT", laid_out)
    vectors, which = clusters(400)
    found = catalogue_places(vectors, 0)
    assert found.shape == (400, 2)
    assert found.dtype == np.float32
    assert np.abs(found).max() <= 1
    distances = np.linalg.norm(found[:, None] - found[None], axis=-1)
    np.fill_diagonal(distances, np.inf)
    assert (which[distances.argmin(1)] == which).mean() > 0.99


def test_the_same_vectors_have_the_same_places() -> None:
    vectors, _ = clusters(60)
    np.testing.assert_array_equal(catalogue_places(vectors, 3), catalogue_places(vectors, 3))


@pytest.mark.parametrize("items", [1, 2, 7])
def test_a_very_small_catalogue_has_a_map_too(items: int) -> None:
    vectors, _ = clusters(items)
    assert np.isfinite(catalogue_places(vectors, 0)).all()


def test_a_vector_of_zeros_has_a_place() -> None:
    vectors, _ = clusters(50)
    vectors[3] = 0
    assert np.isfinite(catalogue_places(vectors, 0)).all()
