"""Items, their attributes, the canonical form of those and its content hash; the catalogue on disk.

How attributes become text lives in :mod:`llmemb.prompt`; reading raw data lives in ``trainer.data``.
"""

import hashlib
import json
import math
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from llmemb.errors import DataError, ItemError

Attributes = Mapping[str, Any]
"""Attribute name to value: text, number, boolean, null, or lists and objects of those."""

MAX_ITEM_BYTES = 64 * 1024  # of the canonical form, in UTF-8
MAX_DEPTH = 16  # levels of lists and objects inside an attribute
MAX_ID_CHARS = 512

_JSON = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def check_id(item_id: str) -> str:
    """Return the id unchanged.

    Raises:
        ItemError: the id is empty, longer than ``MAX_ID_CHARS`` or holds control characters.
    """
    if not item_id:
        raise ItemError("an item id may not be empty")
    if len(item_id) > MAX_ID_CHARS:
        raise ItemError(f"an item id of {len(item_id)} characters; the limit is {MAX_ID_CHARS}")
    if any(unicodedata.category(c) in ("Cc", "Cs") for c in item_id):
        raise ItemError(f"item id {item_id!r} holds control characters")
    return item_id


def canonical(attributes: Attributes) -> bytes:
    """Return the canonical form of an item's attributes: UTF-8 JSON with sorted keys.

    Two spellings of the same attributes have the same canonical form: key order, Unicode
    composition (NFC), ``1.0`` against ``1``, and null or empty values do not matter.

    Raises:
        ItemError: a value is not JSON, not finite, nested too deep, not valid Unicode, or the
            whole is longer than ``MAX_ITEM_BYTES``.
    """
    clean = canonical_attributes(attributes)
    data = _JSON.encode(clean).encode()
    if len(data) > MAX_ITEM_BYTES:
        longest = max(clean, key=lambda name: len(json.dumps(clean[name])))
        raise ItemError(
            f"the attributes take {len(data):,} bytes; the limit is {MAX_ITEM_BYTES:,}", (longest,)
        )
    return data


def canonical_attributes(attributes: Attributes) -> dict[str, Any]:
    """Return what :func:`canonical` writes, as values; the prompt is written from these.

    Raises:
        ItemError: as :func:`canonical`, but for the size.
    """
    try:
        return _canonical_object(attributes, 0)
    except ItemError as error:
        # A path that long is of what is nested too deep: its beginning says enough.
        path = error.path if len(error.path) <= MAX_DEPTH else error.path[:1]
        raise ItemError(error.reason, path) from None


def content_hash(attributes: Attributes) -> str:
    """Return the SHA-256 of the canonical form, in hexadecimal: the item's key in the cache."""
    return hashlib.sha256(canonical(attributes)).hexdigest()


def canonical_text(text: str) -> str:
    """Return text as the canonical form has it: composed (NFC), without blanks around it."""
    return unicodedata.normalize("NFC", text).strip()


def _canonical_object(value: Attributes, depth: int) -> dict[str, Any]:
    clean: dict[str, Any] = {}
    for name, inner in value.items():
        if not isinstance(name, str):
            raise ItemError(f"attribute names are text, not {type(name).__name__}")
        key = _canonical_text(name)
        if key in clean:
            raise ItemError(f"attribute {key!r} is given twice")
        try:
            kept = _canonical_value(inner, depth + 1)
        except ItemError as error:
            raise ItemError(error.reason, (name, *error.path)) from None
        if kept or isinstance(kept, bool | int | float):  # no null, no empty text, list or object
            clean[key] = kept
    return clean


def _canonical_value(value: Any, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise ItemError(f"nested more than {MAX_DEPTH} levels deep")
    if isinstance(value, str):
        return _canonical_text(value)
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ItemError(f"{value} is not a number that JSON can hold")
        return int(value) if value.is_integer() and abs(value) < 2**53 else value
    if isinstance(value, Mapping):
        return _canonical_object(value, depth)
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return [_canonical_entry(i, inner, depth) for i, inner in enumerate(value)]
    raise ItemError(f"a value of type {type(value).__name__} is not JSON")


def _canonical_entry(place: int, value: Any, depth: int) -> Any:
    try:
        return _canonical_value(value, depth + 1)
    except ItemError as error:
        raise ItemError(error.reason, (place, *error.path)) from None


def _canonical_text(text: str) -> str:
    if text.isascii():
        return text.strip()
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ItemError("the text is not valid Unicode (a lone surrogate)") from None
    return canonical_text(text)


@dataclass
class Catalogue:
    """The items known to a data set or a bundle, in a fixed order.

    Attributes:
        ids: one id an item; an item's position here is its index everywhere else.
        attributes: one mapping an item, in the order of ``ids``.
    """

    ids: list[str]
    attributes: list[dict[str, Any]]
    index: dict[str, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.index = {item_id: i for i, item_id in enumerate(self.ids)}
        if len(self.index) != len(self.ids):
            raise DataError("the catalogue holds an item id twice")

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[tuple[str, dict[str, Any]]]:
        return zip(self.ids, self.attributes, strict=True)

    def fields(self) -> list[str]:
        """Return every attribute name that occurs, in canonical form, in order of first appearance."""
        return [
            _canonical_text(name)
            for name in dict.fromkeys(name for item in self.attributes for name in item)
        ]

    def write(self, path: Path, **columns: pa.Array) -> None:
        """Write ``items.parquet``: ``id`` and ``attributes`` (JSON text), then any extra columns."""
        encoded = [json.dumps(item, ensure_ascii=False) for item in self.attributes]
        table = {
            "id": pa.array(self.ids, pa.string()),
            "attributes": pa.array(encoded, pa.string()),
        }
        pq.write_table(pa.table({**table, **columns}), path, compression="zstd")

    @classmethod
    def read(cls, path: Path) -> "Catalogue":
        """Read what :meth:`write` wrote.

        Raises:
            DataError: the file is not there, not Parquet, or lacks a column.
        """
        table = read_parquet(path, ("id", "attributes"))
        return cls(
            ids=table["id"].to_pylist(),
            attributes=[json.loads(text) for text in table["attributes"].to_pylist()],
        )


def read_parquet(path: Path, columns: Sequence[str]) -> pa.Table:
    """Read some columns of a Parquet file.

    Raises:
        DataError: the file is not there, not Parquet, or lacks a column.
    """
    try:
        return pq.read_table(path, columns=list(columns))
    except FileNotFoundError:
        raise DataError(f"{path} is not there") from None
    except (pa.ArrowInvalid, pa.ArrowKeyError, OSError) as error:
        raise DataError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error
