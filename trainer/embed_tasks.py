"""What ``llmemb embed --engine ray`` runs on the machines of a cluster: read parts, embed and write them.

A part has one name whoever writes it, and appears whole: no item is there twice, whatever is run again.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cached_property, lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pyarrow.fs import FileSystem, LocalFileSystem
from pydantic import TypeAdapter
from transformers import AutoTokenizer

from llmemb.bundle import Bundle, read_bundle
from llmemb.encoder import Encoder, EncoderSettings, Precision, Tokens, tokenize
from llmemb.files import replacing_file
from llmemb.item_embedder import Space, distinct_prompts, embed_tokens
from llmemb.prompt import PromptTemplate
from trainer.data.files import table_items
from trainer.data.parquet_tables import parquet_items
from trainer.data.report import Problem, Report
from trainer.embed import in_parts, item_prompts, vector_table

PROBLEMS = TypeAdapter(list[Problem])
READ = pa.schema(
    {
        "part": pa.string(),  # the file to write
        "items": pa.int64(),
        "problems": pa.string(),  # of its rows and those before it, as JSON
        "ids": pa.list_(pa.string()),
        "rows": pa.list_(pa.int32()),  # of each item its place among the tokens
        "tokens": pa.list_(pa.list_(pa.int32())),  # of distinct prompts; empty: the part is there
        "truncated": pa.list_(pa.bool_()),
    }
)
DONE = ["part", "items", "problems"]  # the columns that are left when a part is written


def read_parts(
    shares: pa.Table,
    *,
    source: FileSystem,
    target: FileSystem,
    folder: str,
    encoder: str,
    template: PromptTemplate,
    settings: EncoderSettings,
    part_items: int,
) -> Iterator[pa.Table]:
    """Yield the parts of some row groups, a row each; the last has no item, only problems."""
    for share in shares.to_pylist():
        report, file = Report(), share["name"]
        groups = range(share["start"], share["stop"])
        rows = table_items(parquet_items(share["path"], source, groups), file, report)
        parts = in_parts(item_prompts(template, rows, file, report), part_items)
        for number, part in enumerate(chain(parts, [[]])):
            path = f"{folder}/part-{share['number']:07d}-{number:07d}.parquet"
            distinct, places = distinct_prompts([prompt for _, prompt in part])
            there = not part or _is_whole(target, path)
            tokens = [] if there else tokenize(_tokenizer(encoder), distinct, settings)
            read = {
                "part": path,
                "items": len(part),
                "problems": PROBLEMS.dump_json(list(report.problems.values())).decode(),
                "ids": [item_id for item_id, _ in part],
                "rows": places,
                "tokens": [one.ids for one in tokens],
                "truncated": [one.truncated for one in tokens],
            }
            yield pa.Table.from_pylist([read], READ)
            report.problems.clear()


@lru_cache(maxsize=1)
def _tokenizer(encoder: str) -> Any:
    return AutoTokenizer.from_pretrained(encoder)


class Worker:
    """Embeds parts and writes them; loads the encoder, once, for the first that is not there yet."""

    def __init__(
        self,
        bundle: str,
        base_model: str | None,
        precision: Precision,
        space: Space,
        target: FileSystem,
        threads: int,
    ) -> None:
        torch.set_num_threads(threads)
        self._path, self._base_model, self._precision = Path(bundle), base_model, precision
        self._space, self._target = space, target

    @cached_property
    def _bundle(self) -> Bundle:
        return read_bundle(self._path)

    @cached_property
    def _encoder(self) -> Encoder:
        return self._bundle.load_encoder(self._base_model, self._precision)

    def __call__(self, parts: pa.Table) -> pa.Table:
        """Write the parts that are not there yet; return ``DONE`` of all."""
        for part in parts.to_pylist():
            if part["tokens"]:
                tokens = list(map(Tokens, part["tokens"], part["truncated"]))
                vectors, truncated = embed_tokens(
                    self._bundle, self._encoder, tokens, part["rows"], self._space
                )
                table = vector_table(part["ids"], vectors, truncated)
                with replacing(self._target, part["part"]) as aside:
                    pq.write_table(table, aside, filesystem=self._target, compression="lz4")
        return parts.select(DONE)


@contextmanager
def replacing(filesystem: FileSystem, path: str) -> Iterator[str]:
    """Yield where to write a file that then is there whole, or not at all."""
    if isinstance(filesystem, LocalFileSystem):
        with replacing_file(Path(path)) as aside:
            yield str(aside)
        return
    try:
        yield path  # an object store shows what was closed, and only that
    except BaseException:
        with suppress(OSError):
            filesystem.delete_file(path)
        raise


def _is_whole(filesystem: FileSystem, path: str) -> bool:
    try:
        pq.read_metadata(path, filesystem=filesystem)
    except (OSError, pa.ArrowException):
        return False
    return True
