"""The indexes of a bundle's items, by the engine that the settings name."""

import numpy as np
import torch

from llmemb.bundle import Bundle
from service.faiss_index import SAMPLED, FaissIndex, Storage
from service.index import Facts, ItemIndex, Vectors, own_keys, unit_length
from service.milvus import PREFIX, Milvus, MilvusCollection
from service.milvus_index import MilvusIndex


def open_indexes(
    bundle: Bundle, storage: Storage, milvus: Milvus | None
) -> tuple[ItemIndex, ItemIndex | None]:
    """Return the index of item vectors, and that of them at unit length unless all have it.

    With many items this takes a while.

    Args:
        bundle: which.
        storage: of FAISS, see :class:`~service.faiss_index.FaissIndex`.
        milvus: what searches; None: FAISS does.

    Raises:
        LLMEmbError: Milvus cannot be reached.
    """
    vectors = bundle.item_vectors
    unit = None if bundle.manifest.srs.unit_items else unit_length(vectors)
    if milvus is None:
        index = FaissIndex(vectors, queries=_users(bundle), storage=storage)
        return index, None if unit is None else FaissIndex(unit, storage=storage)
    facts = Facts(
        keys=own_keys(len(vectors)),
        ids=bundle.catalogue.ids,
        attributes=bundle.catalogue.attributes,
        cold=bundle.popularity == 0,
        gone=np.empty(0, dtype=np.int64),
    )

    def opened(name: str, these: Vectors) -> MilvusIndex:
        return MilvusIndex.of_bundle(these, facts, MilvusCollection(milvus, name, these.shape[1]))

    name = collection_of(bundle)
    return opened(name, vectors), None if unit is None else opened(f"{name}_unit", unit)


def collection_of(bundle: Bundle) -> str:
    """Return the name of the collection that holds a bundle's item vectors."""
    return f"{PREFIX}_{bundle.manifest.bundle}"


def _users(bundle: Bundle) -> Vectors:
    """Return user vectors after one item: what searches will be like, float32 ``[users, width]``."""
    vectors = bundle.item_vectors
    some = np.random.default_rng(0).permutation(len(vectors))[:SAMPLED]
    with torch.inference_mode():
        ones = torch.from_numpy(vectors[some, np.newaxis])
        users = bundle.backbone.user_vectors(ones, torch.ones(len(some), dtype=torch.int64))
    return np.asarray(users.numpy())
