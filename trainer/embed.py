"""``llmemb embed``: vectors of any number of items, in parts that a killed run does not compute again.

Memory holds two parts at a time, whatever the number of items: one is read while one is computed.
"""

import hashlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyarrow.fs import FileSystem, LocalFileSystem

from llmemb.bundle import Bundle
from llmemb.encoder import Encoder, Precision
from llmemb.errors import DataError, ItemError
from llmemb.files import json_bytes, replacing_file
from llmemb.item_embedder import Space, embed_prompts
from llmemb.prompt import PromptTemplate
from trainer.data.files import item_rows
from trainer.data.item_checks import check_item
from trainer.data.lines import BLOCK_BYTES, open_raw
from trainer.data.raw import RawItem
from trainer.data.report import Place, Report
from trainer.progress import Progress
from trainer.stages import only_run

PART_ITEMS = 4096
SUFFIXES = (".jsonl", ".csv", ".parquet")


def embed_items(
    bundle: Bundle,
    items: Path,
    out: Path,
    *,
    space: Space,
    base_model: str | None,
    precision: Precision,
    progress: Progress,
) -> Report:
    """Write the vector of every item of a file to a Parquet file; return what was left out of it.

    The file written has columns ``id``, ``vector`` (float32, a list of fixed size) and ``truncated``
    (whether the prompt was longer than the model reads), a row an item, in the order of ``items``. It
    appears when it is whole; until then parts lie in ``<out>.work``. Killed at any point and started
    again with the same arguments, a run goes on after the last whole part.

    Args:
        bundle: makes the vectors.
        items: JSON Lines, CSV or Parquet, as the source ``files`` of ``llmemb data prepare``.
        out: ends in ``.parquet``.
        space: ``srs``: vectors that the recommender scores; ``llm``: the LLM's own.
        base_model: where the base model is; default: as the bundle was trained.
        precision: see :class:`llmemb.encoder.Encoder`.
        progress: shows items a second and the time left.

    Raises:
        DataError: ``items`` cannot be read, or holds no item; ``out`` has another ending.
        LLMEmbError: the base model cannot be used, or another run writes to ``out``.
    """
    if out.suffix != ".parquet":
        raise DataError(f"{out}: vectors are written as Parquet; let the name end in .parquet")
    if items.suffix not in SUFFIXES:
        raise DataError(f"{items}: give a file that ends in {', '.join(SUFFIXES)}")
    if not items.is_file():
        raise DataError(f"{items} is not there")
    work = out.with_name(f"{out.name}.work")
    report = Report()
    with only_run(work):
        facts = items.stat()
        file = [str(items.resolve()), facts.st_size, facts.st_mtime_ns]
        folder = work / parts_key(bundle, space, precision, file)
        folder.mkdir(exist_ok=True)
        load_encoder = partial(bundle.load_encoder, base_model, precision)
        parts = _write_parts(bundle, items, folder, space, load_encoder, progress, report)
        if not parts:
            raise nothing_to_embed(str(items), report)
        with replacing_file(out) as aside:
            join_parts([str(part) for part in parts], str(aside), LocalFileSystem())
        shutil.rmtree(work)
    return report


def _write_parts(
    bundle: Bundle,
    items: Path,
    folder: Path,
    space: Space,
    load_encoder: Callable[[], Encoder],
    progress: Progress,
    report: Report,
) -> list[Path]:
    encoder: Encoder | None = None
    written: list[Path] = []
    template = bundle.manifest.prompt
    prompts = item_prompts(template, item_rows(items, report), items.name, report)
    parts = in_parts(prompts, PART_ITEMS)
    with (
        ThreadPoolExecutor(1, "reader") as reader,
        progress.items("embed", _count(items)) as advance,
    ):
        coming = reader.submit(next, parts, None)
        while part := coming.result():
            coming = reader.submit(next, parts, None)
            path = folder / f"part-{len(written):07d}.parquet"
            if not path.is_file():
                encoder = encoder or load_encoder()
                ids, texts = zip(*part, strict=True)
                table = vector_table(ids, *embed_prompts(bundle, encoder, texts, space))
                with replacing_file(path) as aside:
                    pq.write_table(table, aside, compression="lz4")
            written.append(path)
            advance(len(part))
            report.kept["items"] = report.kept.get("items", 0) + len(part)
    return written


def item_prompts(
    template: PromptTemplate, rows: Iterable[RawItem], file: str, report: Report
) -> Iterator[tuple[str, str]]:
    """Yield id and prompt of each item of a file; one that cannot be used is left out and counted."""
    for row in rows:
        try:
            item_id, _ = check_item(row)
        except ItemError as error:
            report.drop("items", "refused item", file, row.line, str(error))
            continue
        statements = template.statements(row.attributes)
        if not statements:
            place = Place(file, row.line, "the model reads none of its attributes")
            report.note("items", "item without attributes", 1, [place])
        yield item_id, template.text(statements)


def in_parts(prompts: Iterator[tuple[str, str]], items: int) -> Iterator[list[tuple[str, str]]]:
    """Yield ids and prompts of so many items, which are computed together, in file order."""
    while chosen := list(islice(prompts, items)):
        yield chosen


def vector_table(
    ids: Sequence[str], vectors: NDArray[np.float32], truncated: NDArray[np.bool_]
) -> pa.Table:
    """Return the rows that are written for items, ``vectors`` of shape ``[items, dimensions]``."""
    return pa.table(
        {
            "id": pa.array(ids, pa.string()),
            "vector": pa.FixedSizeListArray.from_arrays(
                pa.array(vectors.ravel()), vectors.shape[1]
            ),
            "truncated": pa.array(truncated),
        }
    )


def join_parts(parts: Sequence[str], out: str, filesystem: FileSystem) -> None:
    """Write the rows of the parts, at least one, to one file in their order."""
    rows = ds.dataset(parts, format="parquet", filesystem=filesystem)
    with pq.ParquetWriter(out, rows.schema, filesystem=filesystem, compression="lz4") as writer:
        for batch in rows.to_batches():
            writer.write_batch(batch)


def nothing_to_embed(items: str, report: Report) -> DataError:
    """Return the error of a run that found no item."""
    first = f" ({report.summary()})" if report.problems else ""
    return DataError(f"{items}: there is no item to embed{first}")


def parts_key(bundle: Bundle, space: Space, precision: Precision, files: object) -> str:
    """Return a hash of all that decides the parts; ``files`` tells one state of the input from another."""
    made_by = bundle.manifest.bundle if space == "srs" else bundle.manifest.encoder_fingerprint
    inputs = [made_by, space, precision, files, PART_ITEMS]
    return hashlib.sha256(json_bytes(inputs)).hexdigest()[:16]


def _count(items: Path) -> int:
    """Return about how many items a file holds, for the time left."""
    if items.suffix == ".parquet":
        try:
            return int(pq.read_metadata(items).num_rows)
        except (pa.ArrowException, OSError):
            return 0  # whoever reads it next says what is wrong with it
    with open_raw(items) as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(BLOCK_BYTES), b""))
