"""The live catalogue's system of record in Redis: a hash of records, and a stream of what changed.

A record is what became of one item since the bundle was trained: its attributes, or that it was deleted.
Versions count the changes of the whole catalogue. An entry of the stream has the version and the time for
its id: a replica that still finds the last entry that it has read has missed none since, and where Redis
lost some and counts them anew, it does not find it. All keys share a hash tag, so that a cluster keeps
them together.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from service.errors import UnavailableError
from service.redis_servers import ELSEWHERE
from service.store import Store, StoreAwayError

RECORDS, CHANGES = "{llmemb:items}:records", "{llmemb:items}:changes"
BEGINNING = "0-0"
KEPT_CHANGES = 100_000  # a replica that missed more reads all records again
READ_AT_ONCE = 1000
DURABLE_MS = 4000  # how long a write may take to reach the disk, where Redis writes once a second

Guarantee = Literal["durable", "kept", "away"]
Outcome = Literal["created", "changed", "same", "deleted", "absent", "conflict"]

# ARGV: id, content ("" deletes), expected version ("" any, "*" there is one, "-" there is none), the
# bundle's own content ("" none), changes kept. A record is "<version> <milliseconds> <content>".
_WRITE = """
local record = redis.call('HGET', KEYS[1], ARGV[1])
local version, ms, content = '0', '0', ARGV[4]
if record then version, ms, content = string.match(record, '^(%d+) (%d+) (.*)$') end
local there = content ~= ''
if ARGV[3] == '-' and there or ARGV[3] == '*' and not there
    or string.match(ARGV[3], '%d') and not (there and ARGV[3] == version) then
  return {'conflict', version, ms}
end
if content == ARGV[2] then return {there and 'same' or 'absent', version, ms} end
local last = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
local next = string.format('%d', last and string.match(last[1], '^%d+') + 1 or 1)
local now = redis.call('TIME')
ms = string.format('%d%03d', now[1], math.floor(now[2] / 1000))
redis.call('HSET', KEYS[1], ARGV[1], next .. ' ' .. ms .. ' ' .. ARGV[2])
redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[5], next .. '-' .. ms, 'id', ARGV[1])
return {ARGV[2] == '' and 'deleted' or there and 'changed' or 'created', next, ms}
"""


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
        return f"{self.version}-{round(self.updated * 1000)}"


class Records:
    """The records of the live catalogue; every replica reads and writes the same ones."""

    def __init__(self, store: Store, *, replicas: int = 0) -> None:
        """Take the Redis that keeps them, and how many of its replicas must have them on disk, too."""
        self._store = store
        self._replicas = replicas
        self._waits = False  # for the disk; a server without an append-only file cannot

    async def write(self, changes: Sequence[Change]) -> list[Changed]:
        """Make changes, each as a whole or not at all, and wait until they are on disk.

        Raises:
            UnavailableError: Redis is away, refuses, or did not say in time that the changes are on
                disk. They may have been made; asking again does no harm.
        """

        async def write(client: Redis) -> list[Any]:
            async with client.pipeline(transaction=False) as pipeline:
                for one in changes:
                    arguments = (one.id, one.content, one.expected, one.original, KEPT_CHANGES)
                    pipeline.eval(_WRITE, 2, RECORDS, CHANGES, *arguments)
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

    async def position(self) -> str:
        """Return the id of the last change; ``BEGINNING``: nothing has changed.

        Raises:
            StoreAwayError: Redis is away.
        """

        async def last(client: Redis) -> Any:
            return await client.xrevrange(CHANGES, count=1)

        entries = await self._store.run_at(RECORDS, last)
        return entries[0][0].decode() if entries else BEGINNING

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

    async def since(self, position: str) -> tuple[list[str], dict[str, Record]] | None:
        """Return the entries of the stream after a position, by their ids, and the records they tell of.

        They are the oldest ``READ_AT_ONCE`` at most. None where they cannot be told any more: too many
        were missed, or Redis lost some.

        Raises:
            StoreAwayError: Redis is away.
        """

        async def changed(client: Redis) -> Any:
            # From the position itself on: that it is still there shows that nothing is missing.
            return await client.xrange(CHANGES, position, count=READ_AT_ONCE)

        entries = await self._store.run_at(RECORDS, changed)
        if position != BEGINNING:
            if not entries or entries[0][0].decode() != position:
                return None
            del entries[0]
        elif entries and version_of(entries[0][0].decode()) != 1:
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


def version_of(position: str) -> int:
    """Return the version of the catalogue at a position."""
    return int(position.split("-")[0])


def _read(value: bytes) -> Record:
    version, milliseconds, content = value.split(b" ", 2)
    attributes = json.loads(content) if content else None
    return Record(int(version), int(milliseconds) / 1000, attributes)
