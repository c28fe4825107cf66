"""Prepared data (what ``llmemb data prepare`` wrote) as the trainer uses it."""

import json
from dataclasses import dataclass
from pathlib import Path

from llmemb.bundle import DataFacts
from llmemb.catalogue import Catalogue
from llmemb.errors import DataError
from llmemb.files import sha256_of
from llmemb.interactions import LeaveOneOut, leave_one_out, read_sequences

ITEMS, INTERACTIONS = "items.parquet", "interactions.parquet"


@dataclass(frozen=True)
class Dataset:
    """A catalogue with its interactions, split for leave-one-out.

    Attributes:
        facts: name, sizes and fingerprint, as the bundle's manifest keeps them.
        domain: what an item is, in a word; stands in the prompt.
    """

    facts: DataFacts
    domain: str
    catalogue: Catalogue
    split: LeaveOneOut


def read_dataset(path: Path) -> Dataset:
    """Read a prepared data set.

    Raises:
        DataError: the folder is not one, or its files do not belong together.
    """
    file = path / "dataset.json"
    if not file.is_file():
        raise DataError(
            f"{file} is not there; make it with `llmemb data prepare SOURCE RAW --out {path}`"
        )
    try:
        facts = json.loads(file.read_bytes())
        data = DataFacts.model_validate({name: facts[name] for name in DataFacts.model_fields})
        domain = str(facts["domain"])
        hashes = {name: str(facts["files"][name]) for name in (ITEMS, INTERACTIONS)}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file} is damaged ({error}); run `llmemb data prepare` again") from error
    for name, sha256 in hashes.items():
        if not (path / name).is_file() or sha256_of(path / name) != sha256:
            raise DataError(f"{path / name} is missing or changed; run `llmemb data prepare` again")
    catalogue = Catalogue.read(path / ITEMS)
    if len(catalogue) < 2:
        raise DataError(f"{path} holds one item; there is nothing to recommend")
    sequences = read_sequences(path / INTERACTIONS, catalogue)
    return Dataset(data, domain, catalogue, leave_one_out(sequences, len(catalogue)))
