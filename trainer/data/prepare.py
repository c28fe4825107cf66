"""``llmemb data prepare``: raw data to the folder that the trainer reads."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from llmemb.errors import DataError, SettingsError
from llmemb.files import json_bytes, replacing_directory, sha256_of
from trainer.data.amazon import read_amazon
from trainer.data.files import read_files
from trainer.data.interaction_checks import check_interactions
from trainer.data.item_checks import CheckedItems, check_items
from trainer.data.movielens import read_movielens
from trainer.data.raw import Reader
from trainer.data.recbole import read_recbole
from trainer.data.report import Report
from trainer.data.yelp import read_yelp
from trainer.dataset import INTERACTIONS, ITEMS

SCHEMA = 1
SOURCES: dict[str, Reader] = {
    "movielens": read_movielens,
    "amazon": read_amazon,
    "yelp": read_yelp,
    "recbole": read_recbole,
    "files": read_files,
}


def prepare(
    source: str, raw: Path, out: Path, *, domain: str | None = None, strict: bool = False
) -> Report:
    """Read a raw data set, check every row and write ``out``, whole or not at all.

    Args:
        source: one of ``SOURCES``.
        raw: folder with the source's files.
        out: folder to write; one with a ``dataset.json`` is replaced.
        domain: what an item is, in a word; stands in the prompt. By default the source's.
        strict: stop if any row has to be dropped for a fault.

    Returns:
        What was read, kept and dropped.

    Raises:
        DataError: the data cannot be used, or ``out`` cannot be written.
        SettingsError: there is no such source.
    """
    if source not in SOURCES:
        raise SettingsError(f"no source {source!r}; choose one of {', '.join(SOURCES)}")
    if not raw.is_dir():
        raise DataError(f"{raw} is not a folder; name the one that holds the raw files")
    _check_target(raw, out)
    report = Report()
    with _reading(raw):
        data = SOURCES[source](raw, report)
        items = check_items(data, report)
        interactions = check_interactions(data, items, report)
    report.kept = {
        "items": len(items.catalogue),
        "users": interactions["user"].n_unique(),
        "interactions": interactions.height,
    }
    if strict:
        _check_nothing_dropped(raw, report)
    facts = {
        "schema": SCHEMA,
        "name": raw.resolve().name,
        "source": source,
        "domain": domain or data.domain,
        **report.kept,
        "fingerprint": fingerprint(domain or data.domain, items, interactions),
        "report": report.to_json(),
    }
    _write(out, items, interactions, facts)
    return report


def fingerprint(domain: str, items: CheckedItems, interactions: pl.DataFrame) -> str:
    """Return the SHA-256 of what a model can learn from: domain, items, and users' sequences.

    Two raw data sets with the same content have the same fingerprint, whatever their layout and
    place. The spelling of attributes counts in its canonical form.
    """
    content = hashlib.sha256()
    for item_id, digest in zip(items.catalogue.ids, items.digests, strict=True):
        content.update(_line([item_id, digest.hex()]))
    for user, length in interactions["user"].rle().struct.unnest().select("value", "len").rows():
        content.update(_line([user, length]))
    content.update(interactions["index"].to_numpy().astype("<u4").tobytes())
    times = interactions["timestamp"]
    if not times.null_count():
        content.update(times.to_numpy().astype("<i8").tobytes())
    head = _line(["llmemb data", SCHEMA, domain, *interactions.shape[:1], len(items.digests)])
    return hashlib.sha256(head + content.digest()).hexdigest()


def _line(value: list[Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode() + b"\n"


def _check_target(raw: Path, out: Path) -> None:
    if out.exists() and not (out / "dataset.json").is_file():
        raise DataError(
            f"{out} is there and holds no dataset.json; remove it or choose another --out"
        )
    if raw.resolve().is_relative_to(out.resolve()):
        raise DataError(f"{out} holds the raw data {raw}; choose an --out outside of it")


def _check_nothing_dropped(raw: Path, report: Report) -> None:
    if faults := report.faults():
        first = faults[0].first[0]
        raise DataError(
            f"{raw / first.file}:{first.line}: {first.reason}; mend the rows that cannot be used "
            f"or run without --strict ({report.summary()})"
        )


def _write(
    out: Path, items: CheckedItems, interactions: pl.DataFrame, facts: dict[str, Any]
) -> None:
    with _writing(out), replacing_directory(out.resolve()) as folder:
        items.catalogue.write(folder / ITEMS)
        interactions.select("user", "item", "timestamp").write_parquet(
            folder / INTERACTIONS, compression="zstd"
        )
        facts["files"] = {name: sha256_of(folder / name) for name in (ITEMS, INTERACTIONS)}
        (folder / "dataset.json").write_bytes(json_bytes(facts))


@contextmanager
def _reading(raw: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        name, reason = error.filename or raw, error.strerror or error
        raise DataError(f"{name} cannot be read: {reason}; see to it and run again") from error


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException, pl.exceptions.PolarsError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(
            f"{out} cannot be written: {reason}; it is as it was before; make room there or choose "
            "another --out"
        ) from error
