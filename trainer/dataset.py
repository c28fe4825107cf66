"""Prepared data (what ``llmemb data prepare`` wrote) as the trainer uses it."""

import json
from dataclasses import dataclass
from pathlib import Path

from llmemb.bundle import DataFacts
from llmemb.catalogue import Catalogue
from llmemb.errors import DataError
from llmemb.interactions import LeaveOneOut, leave_one_out, read_sequences


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
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file} is damaged ({error}); run `llmemb data prepare` again") from error
    catalogue = Catalogue.read(path / "items.parquet")
    sequences = read_sequences(path / "interactions.parquet", catalogue)
    if (len(catalogue), len(sequences), len(sequences.items)) != (
        data.items,
        data.users,
        data.interactions,
    ):
        raise DataError(
            f"{path}: the files do not match dataset.json; run `llmemb data prepare` again"
        )
    return Dataset(data, domain, catalogue, leave_one_out(sequences, len(catalogue)))
