"""The live catalogue: the bundle's items, and what became of them since, the same on every replica.

Redis is its system of record (see :mod:`service.records`). A change is made there, and on disk, before it
is acknowledged; each replica follows the stream of changes, and puts back what Redis loses all the same.
"""

import asyncio
import json
import logging
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from llmemb.bundle import Bundle
from llmemb.catalogue import canonical
from service.background import Background
from service.embedder import Embedder, PreparedItem
from service.errors import IndexAwayError, OverloadedError, UnavailableError
from service.live_items import LiveItems
from service.records import (
    Change,
    Changed,
    Guarantee,
    LostError,
    Position,
    Record,
    Records,
)
from service.store import StoreAwayError

FOLLOW_SECONDS = 0.1
EMBEDDED_AT_ONCE = 64  # items of other replicas; few, so that requests come in between
BUSY_SECONDS = 1.0
PATIENCE_SECONDS = 5.0  # at the start: without the records, what was deleted would come back

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class NewItem:
    """An item to be put into the catalogue.

    Attributes:
        field: where in the request its attributes stand.
        expected: see :class:`~service.records.Change`.
    """

    id: str
    attributes: Mapping[str, Any]
    field: str
    expected: str = ""


class LiveCatalogue:
    """What can be recommended now; changed here and by other replicas.

    Attributes:
        items: replaced as a whole now and then; who answers a request takes it once.
        position: up to which this replica has followed; None: it has not begun.
    """

    def __init__(
        self, bundle: Bundle, items: LiveItems, *, records: Records, embedder: Embedder
    ) -> None:
        """Take the bundle's items, the records of what became of them, and what embeds new ones."""
        self._bundle = bundle
        self._records = records
        self._embedder = embedder
        self._since: dict[str, Record] = {}
        # Entries of the stream: those that this replica wrote and has not read back, and those read while
        # a write of its own is not acknowledged yet, of which they may be.
        self._written: set[str] = set()
        self._read_meanwhile: dict[object, set[str]] = {}
        self._turn = asyncio.Lock()  # of who follows
        self._lost = False  # Redis seems to have lost something
        self._moved: set[str] | None = None  # ids that changed while the indexes are built anew
        self._background = Background()
        self.position: Position | None = None
        self.items = items

    async def __aenter__(self) -> Self:
        """Catch up with the records, if Redis is there before long, and go on following."""
        end = time.monotonic() + PATIENCE_SECONDS
        await self._try_to_follow()
        while self.position is None and time.monotonic() < end:
            await asyncio.sleep(FOLLOW_SECONDS)
            await self._try_to_follow()
        if self.position is None:
            log.warning(
                "the catalogue cannot be read; the bundle's own items are served until it can"
            )
        self._background.start(self._follow_forever())
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop following."""
        await self._background.cancel()

    @property
    def guarantee(self) -> Guarantee:
        """What holds of a change that is acknowledged now."""
        return self._records.guarantee

    def record(self, item_id: str) -> Record | None:
        """Return what became of an item since the bundle was trained, if anything did."""
        return self._since.get(item_id)

    async def put(self, new: Sequence[NewItem]) -> list[Changed]:
        """Add items, or replace them; each can be recommended here once this returns.

        Raises:
            InvalidFieldError: one of them cannot be used; none was put.
            OverloadedError: too much is waiting for the model; none was put.
            UnavailableError: see :meth:`Records.write`.
        """
        prepared = [self._embedder.prepare(one.attributes, one.field) for one in new]
        # Before they are written: what cannot be embedded is refused, and other replicas find the
        # vector in the cache.
        vectors = await self._adapted([one.id for one in new], prepared)
        changes = [
            Change(one.id, item.content, one.expected, self._original(one.id))
            for one, item in zip(new, prepared, strict=True)
        ]
        changed = await self._write(changes)
        for change, became, vector in zip(changes, changed, vectors, strict=True):
            if became.outcome != "conflict" and became.version:
                record = Record(became.version, became.updated, json.loads(change.content))
                self._apply(change.id, record, vector)
        return changed

    async def delete(self, item_id: str, expected: str = "") -> Changed:
        """Delete an item; it is not recommended here once this returns.

        Raises:
            UnavailableError: see :meth:`Records.write`.
        """
        change = Change(item_id, b"", expected, self._original(item_id))
        (changed,) = await self._write([change])
        if changed.outcome != "conflict" and changed.version:
            self._apply(item_id, Record(changed.version, changed.updated, None), None)
        return changed

    async def _write(self, changes: Sequence[Change]) -> list[Changed]:
        write = object()
        read = self._read_meanwhile[write] = set()
        try:
            changed = await self._write_once_or_twice(changes)
        finally:
            del self._read_meanwhile[write]
        self._written |= {one.entry for one in changed if one.entry} - read
        return changed

    async def _write_once_or_twice(self, changes: Sequence[Change]) -> list[Changed]:
        if self.position is None:
            raise UnavailableError("the catalogue has not been read yet; ask again")
        try:
            return await self._records.write(changes, self.position)
        except LostError:
            self._lost = True
        try:
            await self._follow()
            return await self._records.write(changes, self.position)
        except (LostError, StoreAwayError):
            raise UnavailableError("Redis has lost changes of the catalogue; ask again") from None

    def _read_back(self, entries: Collection[str]) -> None:
        self._written.difference_update(entries)
        for read in self._read_meanwhile.values():
            read.update(entries)

    def _original(self, item_id: str) -> bytes:
        position = self._bundle.catalogue.index.get(item_id)
        return b"" if position is None else canonical(self._bundle.catalogue.attributes[position])

    def _apply(self, item_id: str, record: Record, vector: NDArray[np.float32] | None) -> None:
        """Make a change visible here, unless a later one is already."""
        known = self._since.get(item_id)
        if known is not None and known.version >= record.version:
            return
        self._since[item_id] = record
        if record.attributes is None or vector is None:
            self.items.remove(item_id)
        else:
            facts = (record.attributes, vector, record.updated)
            self.items.put(item_id, *facts, key=record.version)
        self._changed(item_id)

    def _revert(self, item_id: str) -> None:
        """Make an item what it is in the bundle."""
        del self._since[item_id]
        position = self._bundle.catalogue.index.get(item_id)
        if position is None:
            self.items.remove(item_id)
        else:
            attributes = self._bundle.catalogue.attributes[position]
            vector = self._bundle.item_vectors[position]
            self.items.put(item_id, attributes, vector, key=-1 - position)
        self._changed(item_id)

    def _changed(self, item_id: str) -> None:
        if self._moved is not None:
            self._moved.add(item_id)
        elif self.items.stale:
            self._moved = set()
            self._background.start(self._compact())

    async def _compact(self) -> None:
        """Build the indexes anew beside those at work, and put them in their place."""
        old = self.items
        settle = old.index.settle_seconds
        try:
            # Replicas come to this at the same change: the first finds most to do.
            await asyncio.sleep(np.random.default_rng().uniform(0, settle))
            new = await asyncio.to_thread(old.compacted, np.flatnonzero(old.index.present()))
            await asyncio.sleep(settle)
            for item_id in self._moved or ():
                new.adopt(item_id, old)
            self.items = new
        except IndexAwayError as error:
            log.warning("the indexes are built anew later: %s", error)
        finally:
            self._moved = None

    async def _follow_forever(self) -> None:
        while True:
            await asyncio.sleep(FOLLOW_SECONDS)
            await self._try_to_follow()

    async def _try_to_follow(self) -> None:
        try:
            await self._follow()
        except StoreAwayError:
            pass  # the store has said so, and says when it is back
        except (OverloadedError, UnavailableError):
            await asyncio.sleep(BUSY_SECONDS)
        except Exception:
            # Whatever it was: a replica that no longer follows would be wrong for good.
            log.exception("the catalogue's changes cannot be followed; trying again")
            await asyncio.sleep(BUSY_SECONDS)

    async def _follow(self) -> None:
        async with self._turn:
            written = set(self._written)
            found = None
            if self.position and not self._lost:
                found = await self._records.since(self.position)
            if self.position is None or found is None:
                await self._begin()
                return
            entries, records = found
            await self._take(records)
            if entries:
                self.position = replace(self.position, entry=entries[-1])
            self._read_back(entries)
            # What was written before the stream was read is in it, or it is lost.
            left = written & self._written
            if any(not entries or self.position.reached(one) for one in left):
                self._lost = True

    async def _begin(self) -> None:
        """Take all records, and put back those that Redis lost; what has none is as in the bundle."""
        self._lost = True  # until all of this is done, whatever ends it early
        written = set(self._written)
        known = dict(self._since)  # first: what is put meanwhile is not in question
        await self._records.ask_guarantee()
        position, records = await self._read_all(known)
        for item_id, one in known.items():
            record = records.get(item_id)
            if record and record != one and self._since.get(item_id) is one:
                del self._since[item_id]
        await self._take(records)
        for item_id in known.keys() - records.keys():
            if self._since.get(item_id) is known[item_id]:
                self._revert(item_id)
        self.position, self._lost = position, False
        self._written -= written
        self._read_back([record.entry for record in records.values()])

    async def _read_all(self, known: Mapping[str, Record]) -> tuple[Position, dict[str, Record]]:
        """Return all records, and how far they go, once those that Redis lost are back in it."""
        while True:
            position = await self._records.position()
            records = await self._records.all()
            if self.position is None or not self._records.is_own(position, self.position):
                return position, records
            lost = {
                item_id: one
                for item_id, one in known.items()
                if item_id not in records or records[item_id].version < one.version
            }
            if not lost:
                if records and not position.lineage:  # others put it back in between
                    position = replace(position, lineage=self.position.lineage)
                return position, records
            log.warning("Redis has lost %d changes of the catalogue: putting them back", len(lost))
            await self._records.put_back(self.position, lost)

    async def _take(self, records: Mapping[str, Record]) -> None:
        """Apply what other replicas recorded."""
        newer = [
            (item_id, record)
            for item_id, record in records.items()
            if item_id not in self._since or self._since[item_id].version < record.version
        ]
        for start in range(0, len(newer), EMBEDDED_AT_ONCE):
            some = newer[start : start + EMBEDDED_AT_ONCE]
            vectors = await self._vectors(
                {item_id: one.attributes for item_id, one in some if one.attributes is not None}
            )
            for item_id, record in some:
                self._apply(item_id, record, vectors.get(item_id))

    async def _vectors(
        self, items: Mapping[str, Mapping[str, Any]]
    ) -> dict[str, NDArray[np.float32]]:
        """Return the item vectors of those that this bundle can embed, float32 ``[width]``."""
        if not items:
            return {}
        try:
            prepared = [self._embedder.prepare(given, item_id) for item_id, given in items.items()]
            found = await self._adapted(list(items), prepared)
        except (OverloadedError, UnavailableError):
            raise
        except Exception as error:  # noqa: BLE001 - whatever the model throws belongs to an item
            if len(items) == 1:
                (item_id,) = items
                log.warning("item %r of the catalogue cannot be recommended: %s", item_id, error)
                return {}
            parts = [await self._vectors({one: given}) for one, given in items.items()]
            return {item_id: vector for part in parts for item_id, vector in part.items()}
        return dict(zip(items, found, strict=True))

    async def _adapted(
        self, ids: Sequence[str], prepared: Sequence[PreparedItem]
    ) -> NDArray[np.float32]:
        """Return item vectors, float32 ``[items, width]``; an id that training knew keeps its residual."""
        learnt = self._bundle.residuals
        residuals = [
            None if learnt is None or position is None else learnt[position]
            for position in map(self._bundle.catalogue.index.get, ids)
        ]
        return await self._embedder.adapt(await self._embedder.embed(prepared), residuals)
