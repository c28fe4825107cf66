"""What makes a raw item unusable, whatever its source; the rest become the catalogue."""

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from llmemb.catalogue import Catalogue, canonical, check_id
from llmemb.errors import DataError, ItemError
from trainer.data.raw import RawData, RawItem
from trainer.data.report import FIRST_PLACES, Place, Report, one_line


@dataclass
class CheckedItems:
    """Items that passed.

    Attributes:
        catalogue: in file order.
        lines: where each item stands in the source.
        digests: SHA-256 of each item's canonical form, 32 bytes.
    """

    catalogue: Catalogue
    lines: list[int]
    digests: list[bytes]


@dataclass
class _Kept:
    """By id, in file order."""

    attributes: dict[str, dict[str, Any]] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    digests: dict[str, bytes] = field(default_factory=dict)


_NO_ATTRIBUTES = hashlib.sha256(canonical({})).digest()


def check_items(raw: RawData, report: Report) -> CheckedItems:
    """Build the catalogue; an item that cannot be used is dropped and counted.

    Raises:
        DataError: one id has two different sets of attributes, or no item is left.
    """
    kept = _Kept()
    for item in raw.items:
        try:
            item_id, digest = check_item(item)
        except ItemError as error:
            report.drop("items", "refused item", raw.items_file.name, item.line, str(error))
            continue
        if item_id in kept.lines:
            _take_duplicate(raw, kept, item._replace(id=item_id), digest, report)
            continue
        kept.attributes[item_id] = item.attributes
        kept.lines[item_id] = item.line
        kept.digests[item_id] = digest
    if not kept.lines:
        raise DataError(_nothing_left(raw, report))
    items = CheckedItems(
        Catalogue(list(kept.attributes), list(kept.attributes.values())),
        list(kept.lines.values()),
        list(kept.digests.values()),
    )
    _note_bare(raw, items, report)
    return items


def check_item(item: RawItem) -> tuple[str, bytes]:
    """Return the id as text and the SHA-256 of the attributes' canonical form, 32 bytes.

    Raises:
        ItemError: the id or an attribute cannot be used.
    """
    item_id = item.id
    if isinstance(item_id, int) and not isinstance(item_id, bool):
        item_id = str(item_id)
    if not isinstance(item_id, str):
        shown = json.dumps(item_id, default=str)
        raise ItemError(f"the id is {shown}; it must be text or a whole number")
    return check_id(item_id), hashlib.sha256(canonical(item.attributes)).digest()


def _take_duplicate(
    raw: RawData, kept: _Kept, item: RawItem, digest: bytes, report: Report
) -> None:
    first = kept.lines[item.id]
    if digest != kept.digests[item.id]:
        raise DataError(
            f"{raw.items_file}:{item.line}: item {one_line(repr(item.id))} has other attributes "
            f"than on line {first}; keep one of the two"
        )
    reason = f"item {item.id!r} is on line {first} already"
    report.drop("items", "duplicate item", raw.items_file.name, item.line, reason)


def _note_bare(raw: RawData, items: CheckedItems, report: Report) -> None:
    bare = [
        line
        for line, digest in zip(items.lines, items.digests, strict=True)
        if digest == _NO_ATTRIBUTES
    ]
    places = (Place(raw.items_file.name, line, "no attributes") for line in bare[:FIRST_PLACES])
    report.note("items", "item without attributes", len(bare), places)


def _nothing_left(raw: RawData, report: Report) -> str:
    if problem := next((p for p in report.faults() if p.rows == "items"), None):
        return (
            f"{raw.items_file}:{problem.first[0].line}: no item is left of "
            f"{report.read('items'):,} rows; mend the rows ({report.summary()})"
        )
    return f"{raw.items_file}:1: no items in the file; write one a row"
