"""What makes a raw item unusable, whatever its source; the rest become the catalogue."""

import hashlib
import json
from collections.abc import Iterator
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
    ids: dict[str, int] = field(default_factory=dict)  # id to position
    attributes: list[dict[str, Any]] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)


def check_items(raw: RawData, report: Report) -> CheckedItems:
    """Build the catalogue; an item that cannot be used is dropped and counted.

    Raises:
        DataError: one id has two different sets of attributes, or no item is left.
    """
    file = raw.items_file
    kept = _Kept()
    bare: list[int] = []  # lines of items without attributes
    for item in raw.items:
        try:
            item_id, digest, empty = _checked(item)
        except ItemError as error:
            report.drop("items", "refused item", file.name, item.line, str(error))
            continue
        if (position := kept.ids.get(item_id)) is not None:
            _check_same(raw, item, kept.lines[position], digest == kept.digests[position])
            reason = f"item {item_id!r} is on line {kept.lines[position]} already"
            report.drop("items", "duplicate item", file.name, item.line, reason)
            continue
        kept.ids[item_id] = len(kept.ids)
        kept.attributes.append(item.attributes)
        kept.lines.append(item.line)
        kept.digests.append(digest)
        if empty:
            bare.append(item.line)
    if not kept.ids:
        raise DataError(_nothing_left(raw, report))
    places = (Place(file.name, line, "no attributes") for line in bare[:FIRST_PLACES])
    report.note("items", "item without attributes", len(bare), places)
    return CheckedItems(Catalogue(list(kept.ids), kept.attributes), kept.lines, kept.digests)


def _checked(item: RawItem) -> tuple[str, bytes, bool]:
    """Return the id, the digest of the attributes and whether there are none."""
    item_id = item.id
    if isinstance(item_id, int) and not isinstance(item_id, bool):
        item_id = str(item_id)
    if not isinstance(item_id, str):
        shown = json.dumps(item_id, default=str)
        raise ItemError(f"the id is {shown}; it must be text or a whole number")
    form = canonical(item.attributes)
    return check_id(item_id), hashlib.sha256(form).digest(), form == b"{}"


def _check_same(raw: RawData, item: RawItem, first: int, same: bool) -> None:
    if not same:
        shown = one_line(repr(str(item.id)))
        raise DataError(
            f"{raw.items_file}:{item.line}: item {shown} has other attributes than on line {first}; "
            "keep one of the two"
        )


def _nothing_left(raw: RawData, report: Report) -> str:
    problems: Iterator[Place] = (p.first[0] for p in report.dropped("items"))
    if first := next(problems, None):
        return (
            f"{raw.items_file}:{first.line}: no item is left: all {report.read('items'):,} rows "
            f"were dropped, this one because {first.reason}; mend the rows"
        )
    return f"{raw.items_file}:1: no items in the file; write one a row"
