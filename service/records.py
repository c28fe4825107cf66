"""The live catalogue's system of record in Redis: a hash of records, and a stream of what changed.

A record is what became of one item since the bundle was trained: its attributes, or that it was deleted.
Versions count the changes of the whole catalogue. An entry of the stream has the version and the time for
its id: a replica that still finds the last entry that it has read has missed none since, and where Redis
lost some and counts them anew, it does not find it. The lineage is a name that the first change of all
gave to the catalogue. A replica that finds it, or no lineage at all, puts back what Redis lost; where it
finds another one, that is another catalogue. All keys share a hash tag, so that a cluster keeps them
together.
"""

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from llmemb.catalogue import canonical
from service.errors import UnavailableError
from service.record_scripts import LOST, PUT_BACK, WRITE
from service.redis_servers import ELSEWHERE
from service.store import Store, StoreAwayError

RECORDS, CHANGES = "{llmemb:items}:records", "{llmemb:items}:changes"
LINEAGE = "{llmemb:items}:lineage"
KEYS = (RECORDS, CHANGES, LINEAGE)
BEGINNING = "0-0"
KEPT_CHANGES = 100_000  # a replica that missed more reads all records again
READ_AT_ONCE = 1000
DURABLE_MS = 4000  # how long a write may take to reach the disk, where Redis writes once a second

Guarantee = Literal["durable", "kept", "away"]
Outcome = Literal["created", "changed", "same", "deleted", "absent", "conflict"]


class LostError(Exception):
    """Redis does not have what this replica has read there: it must read all again."""


@dataclass(frozen=True)
class Position:
    """How far a replica has read the catalogue.

    Attributes:
        lineage: the catalogue's; empty: there was no change yet.
        entry: the last one that it has read of the stream.
    """

    lineage: str = ""
    entry: str = BEGINNING

    def reached(self, entry: str) -> bool:
        """Return whether it has read the stream as far as that entry."""
        return _version_of(entry) <= _version_of(self.entry)


@dataclass(frozen=True)
class Record:
    """What became of an item.

    Attributes:
        version: of the catalogue, when it did.
        updated: seconds since 1970, by the clock of Redis.
        attributes: in canonical form; None: it was deleted.
    """

    version: int
    updated: float
    attributes: dict[str, Any] | None

    @property
    def entry(self) -> str:
        """The id in the stream of the change that it came of."""
        return _entry(self.version, self.updated)


@dataclass(frozen=True)
class Change:
    """A change that is asked for.

    Attributes:
        content: the canonical form of the new attributes; empty: delete it.
        expected: the version that the item must have; ``*``: any, ``-``: it must not exist; empty: no matter.
        original: the canonical form of what the bundle knows of it; empty: nothing.
    """

    id: str
    content: bytes = b""
    expected: str = ""
    original: bytes = b""


@dataclass(frozen=True)
class Changed:
    """What came of a change.

    Attributes:
        version: of the item now; 0: it is as in the bundle.
        updated: when it got that version, in seconds since 1970.
    """

    outcome: Outcome
    version: int
    updated: float

    @property
    def entry(self) -> str | None:
        """The id in the stream of what this change recorded; None: it changed nothing."""
        if self.outcome not in ("created", "changed", "deleted"):
            return None
        return _entry(self.version, self.updated)


class Records:
    """The records of the live catalogue; every replica reads and writes the same ones."""

    def __init__(self, store: Store, *, replicas: int = 0) -> None:
        """Take the Redis that keeps them, and how many of its replicas must have them on disk, too."""
        self._store = store
        self._own_lineage = uuid.uuid4().hex
        self._replicas = replicas
        self._waits = False  # for the disk; a server without an append-only file cannot

    async def write(self, changes: Sequence[Change], position: Position) -> list[Changed]:
        """Make changes, each as a whole or not at all, and wait until they are on disk.

        Args:
            changes: in the order in which they are made.
            position: as far as this replica has read.

        Raises:
            LostError: Redis does not have all that; none of the rest was made.
            UnavailableError: Redis is away, refuses, or did not say in time that the changes are on
                disk. They may have been made; asking again does no harm.
        """

        async def write(client: Redis) -> list[Any]:
            async with client.pipeline(transaction=False) as pipeline:
                for one in changes:
                    asked = (one.id, one.content, one.expected, one.original, KEPT_CHANGES)
                    read = (position.lineage, _version_of(position.entry), self._own_lineage)
                    pipeline.eval(WRITE, len(KEYS), *KEYS, *asked, *read)
                # On the connection of the changes: it is theirs that is waited for.
                pipeline.waitaof(1, self._replicas, DURABLE_MS)
                answers = await pipeline.execute(raise_on_error=False)
            if moved := next((one for one in answers if isinstance(one, ELSEWHERE)), None):
                raise moved  # the store will look where the records are now
            return list(answers)

        try:
            *answers, durable = await self._store.run_at(RECORDS, write)
        except StoreAwayError:
            raise UnavailableError("Redis is away: the catalogue cannot be changed now") from None
        if error := next((one for one in answers if isinstance(one, Exception)), None):
            raise UnavailableError(f"Redis refuses to change the catalogue: {error}") from error
        if any(outcome == LOST for outcome, _, _ in answers):
            raise LostError
        self._waits = not isinstance(durable, ResponseError)
        if self._waits and (durable[0] < 1 or durable[1] < self._replicas):
            raise UnavailableError("Redis did not write to its disks in time; ask again")
        return [
            Changed(outcome.decode(), int(version), int(milliseconds) / 1000)
            for outcome, version, milliseconds in answers
        ]

    @property
    def guarantee(self) -> Guarantee:
        """What holds of a change that is acknowledged; ``kept`` until Redis was asked."""
        if not self._store.up:
            return "away"
        return "durable" if self._waits else "kept"

    async def ask_guarantee(self) -> None:
        """Ask Redis whether it can wait until a change is on disk.

        Raises:
            StoreAwayError: Redis is away.
        """

        async def wait(client: Redis) -> Any:
            return await client.waitaof(1, 0, DURABLE_MS)

        try:
            await self._store.run_at(RECORDS, wait)
        except ResponseError:
            self._waits = False
        else:
            self._waits = True

    async def position(self) -> Position:
        """Return where the stream ends.

        Raises:
            StoreAwayError: Redis is away.
        """

        async def last(client: Redis) -> Any:
            async with client.pipeline(transaction=True) as pipeline:
                pipeline.get(LINEAGE)
                pipeline.xrevrange(CHANGES, count=1)
                return await pipeline.execute()

        lineage, entries = await self._store.run_at(RECORDS, last)
        entry = entries[0][0].decode() if entries else BEGINNING
        return Position((lineage or b"").decode(), entry)

    async def all(self) -> dict[str, Record]:
        """Return every record by its item's id.

        Raises:
            StoreAwayError: Redis is away.
        """
        found: dict[str, Record] = {}
        cursor = 0
        while True:

            async def scan(client: Redis, cursor: int = cursor) -> Any:
                return await client.hscan(RECORDS, cursor, count=READ_AT_ONCE)

            cursor, some = await self._store.run_at(RECORDS, scan)
            found |= {key.decode(): _read(value) for key, value in some.items()}
            if not cursor:
                return found

    async def put_back(self, position: Position, lost: Mapping[str, Record]) -> None:
        """Write records that Redis had once and has no more, or only older ones of; wait for nothing.

        Where it has another catalogue by now, nothing is written.

        Args:
            position: as far as this replica had read.
            lost: by the item's id.

        Raises:
            StoreAwayError: Redis is away.
        """
        lineage = position.lineage or self._own_lineage
        oldest_first = sorted(lost.items(), key=lambda one: one[1].version)
        for start in range(0, len(oldest_first), READ_AT_ONCE):

            async def write(client: Redis, start: int = start) -> None:
                async with client.pipeline(transaction=False) as pipeline:
                    for item_id, one in oldest_first[start : start + READ_AT_ONCE]:
                        content = b"" if one.attributes is None else canonical(one.attributes)
                        facts = (one.version, _milliseconds(one.updated), content, KEPT_CHANGES)
                        pipeline.eval(PUT_BACK, len(KEYS), *KEYS, lineage, item_id, *facts)
                    await pipeline.execute()

            await self._store.run_at(RECORDS, write)

    def is_own(self, found: Position, position: Position) -> bool:
        """Return whether what is found in Redis is the catalogue that was read there, or nothing at all."""
        return found.lineage in ("", position.lineage or self._own_lineage)

    async def since(self, position: Position) -> tuple[list[str], dict[str, Record]] | None:
        """Return the entries of the stream after a position, by their ids, and the records they tell of.

        They are the oldest ``READ_AT_ONCE`` at most. None where they cannot be told any more: too many
        were missed, or Redis lost some.

        Raises:
            StoreAwayError: Redis is away.
        """

        async def changed(client: Redis) -> Any:
            async with client.pipeline(transaction=True) as pipeline:
                # From the position itself on: that it is still there shows that nothing is missing.
                pipeline.get(LINEAGE)
                pipeline.xrange(CHANGES, position.entry, count=READ_AT_ONCE)
                return await pipeline.execute()

        lineage, entries = await self._store.run_at(RECORDS, changed)
        if (lineage or b"").decode() != position.lineage:
            return None
        if position.entry != BEGINNING:
            if not entries or entries[0][0].decode() != position.entry:
                return None
            del entries[0]
        elif entries and _version_of(entries[0][0].decode()) != 1:
            return None
        if not entries:
            return [], {}
        ids = list(dict.fromkeys(fields[b"id"] for _, fields in entries))

        async def read(client: Redis) -> Any:
            return await client.hmget(RECORDS, ids)

        values = await self._store.run_at(RECORDS, read)
        found = {
            key.decode(): _read(value)
            for key, value in zip(ids, values, strict=True)
            if value is not None
        }
        return [entry.decode() for entry, _ in entries], found


def _version_of(entry: str) -> int:
    return int(entry.split("-")[0])


def _entry(version: int, updated: float) -> str:
    return f"{version}-{_milliseconds(updated)}"


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def _read(value: bytes) -> Record:
    version, milliseconds, content = value.split(b" ", 2)
    attributes = json.loads(content) if content else None
    return Record(int(version), int(milliseconds) / 1000, attributes)
