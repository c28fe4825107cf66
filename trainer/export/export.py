"""``llmemb export``: a bundle's vectors or its encoder, as another library reads them."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from llmemb.bundle import Bundle
from llmemb.errors import DataError, LLMEmbError
from llmemb.files import json_bytes, replacing_directory, replacing_file
from trainer.export.recbole import write_recbole
from trainer.export.sentence_transformer import write_sentence_transformer

Format = Literal["parquet", "npy", "faiss", "recbole", "sentence-transformers"]

VECTORS, INDEX, IDS = "vectors.npy", "vectors.faiss", "ids.json"


def export(bundle: Bundle, form: Format, out: Path, *, base_model: str | None = None) -> None:
    """Write a bundle in another form; it appears when it is whole.

    ``parquet`` is one file, the others are folders. What an earlier export wrote is replaced.

    Args:
        bundle: to export.
        form: of the files.
        out: file (it ends in ``.parquet``) or folder to write. For ``recbole`` its name is the data set's.
        base_model: where the base model is; default: as the bundle was trained. Only
            ``sentence-transformers`` needs it.

    Raises:
        DataError: ``out`` has another ending, or an item's id means something else to RecBole.
        LLMEmbError: ``out`` is there and holds more than such an export, the base model cannot be used, or
            faiss is not installed.
    """
    if form == "parquet":
        _write_parquet(bundle, out)
        return
    write: dict[str, Callable[[Path], None]] = {
        "npy": lambda folder: _write_npy(bundle, folder),
        "faiss": lambda folder: _write_faiss(bundle, folder),
        "recbole": lambda folder: write_recbole(bundle, folder, name=out.resolve().name),
        "sentence-transformers": lambda folder: write_sentence_transformer(
            bundle, folder, base_model
        ),
    }
    with replacing_directory(out) as folder:
        write[form](folder)
        _check_replaceable(out, folder)


def _check_replaceable(out: Path, new: Path) -> None:
    """Check that what stands at ``out`` holds nothing but files that the new folder has as well."""
    if out.exists() and not out.is_dir():
        raise LLMEmbError(f"{out} is there and is no folder; remove it or choose another --out")
    written = {path.relative_to(new) for path in new.rglob("*")}
    for path in out.rglob("*"):
        if path.relative_to(out) not in written:
            raise LLMEmbError(
                f"{path} is there, and no such export wrote it; move it away or choose another --out"
            )


def _write_parquet(bundle: Bundle, out: Path) -> None:
    if out.suffix != ".parquet":
        raise DataError(f"{out}: let the name end in .parquet")
    with replacing_file(out) as aside:
        bundle.catalogue.write(
            aside,
            popularity=pa.array(bundle.popularity),
            vector=_lists(bundle.item_vectors),
            # Most readers of Parquet know no 16-bit floats.
            llm_vector=_lists(bundle.llm_vectors.astype(np.float32)),
        )


def _lists(vectors: NDArray[np.float32]) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])


def _write_npy(bundle: Bundle, folder: Path) -> None:
    np.save(folder / VECTORS, bundle.item_vectors)
    (folder / IDS).write_bytes(json_bytes(bundle.catalogue.ids))


def _write_faiss(bundle: Bundle, folder: Path) -> None:
    try:
        import faiss
    except ImportError:
        raise LLMEmbError("faiss is not installed: pip install 'llmemb[cpu]'") from None
    index = faiss.IndexFlatIP(bundle.item_vectors.shape[1])
    index.add(bundle.item_vectors)
    faiss.write_index(index, str(folder / INDEX))
    (folder / IDS).write_bytes(json_bytes(bundle.catalogue.ids))
