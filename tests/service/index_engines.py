"""Indexes of each engine, on a few items, for the promises that all of them keep."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count
from typing import Any

import numpy as np
import pytest

from service import faiss_index, milvus_index
from service.faiss_index import FaissIndex
from service.index import Facts, ItemIndex, own_keys
from service.milvus import Milvus, MilvusCollection
from service.milvus_index import MilvusIndex

MakeIndex = Callable[..., ItemIndex]
NAMES = map("items_{}".format, count())


def facts_of(
    attributes: Sequence[Mapping[str, Any]],
    cold: Sequence[bool] | None = None,
    keys: Sequence[int] | None = None,
    gone: Sequence[int] = (),
) -> Facts:
    """Return the facts of items, which are cold and the bundle's own unless it is said."""
    items = len(attributes)
    return Facts(
        own_keys(items) if keys is None else np.array(keys, dtype=np.int64),
        [f"item-{i}" for i in range(items)],
        attributes,
        np.ones(items, bool) if cold is None else np.array(cold, dtype=bool),
        np.array(gone, dtype=np.int64),
    )


def in_milvus(milvus: Milvus, vectors: np.ndarray, facts: Facts) -> MilvusIndex:
    """Return an index of items in a collection of their own."""
    collection = MilvusCollection(milvus, next(NAMES), vectors.shape[1])
    return MilvusIndex.of_bundle(vectors, facts, collection)


@pytest.fixture(scope="session")
def milvus(tmp_path_factory: pytest.TempPathFactory) -> Milvus:
    """Milvus Lite in a file."""
    return Milvus(str(tmp_path_factory.mktemp("milvus") / "items.db"), 1)


@pytest.fixture(params=["exact", "lists", "milvus"])
def make_index(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[MakeIndex]:
    """Make an index of some vectors and, if they matter, the items' facts; by each engine in turn."""
    if request.param != "milvus":
        if request.param == "lists":
            monkeypatch.setattr(faiss_index, "EXACT_ITEMS", 30)  # fewer make no lists
        yield lambda vectors, facts=None: FaissIndex(vectors)
        return
    milvus: Milvus = request.getfixturevalue("milvus")
    monkeypatch.setattr(milvus_index, "AT_ONCE", 150)  # so that it takes a few calls
    yield lambda vectors, facts=None: in_milvus(
        milvus, vectors, facts or facts_of([{}] * len(vectors))
    )
    for name in milvus.run(lambda client: client.list_collections()):
        milvus.run(lambda client, name=name: client.drop_collection(name))


def clustered(items: int, seed: int = 0, width: int = 8) -> np.ndarray:
    """Return vectors in clusters, float32 ``[items, width]``."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(20, width))
    found = centres[rng.integers(0, 20, items)] + 0.3 * rng.normal(size=(items, width))
    return found.astype(np.float32)
