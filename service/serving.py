"""Everything that answers requests, put together from the settings and taken apart again."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from llmemb.bundle import Bundle, read_bundle
from llmemb.encoder import Encoder
from llmemb.errors import BundleError
from service.cache import VectorCache
from service.embedder import Embedder
from service.engine import Engine
from service.index import unit_length
from service.indexes import open_indexes
from service.live import LiveCatalogue
from service.live_items import LiveItems
from service.llm_vector import LLMVector
from service.milvus import Milvus
from service.ranking import Wanted
from service.recommender import Recommender
from service.records import Records
from service.replicas import Replicas
from service.settings import Settings
from service.store import Store
from service.telemetry import Metrics
from service.user_vectors import UserVectors
from service.valkey import EmbeddedValkey
from service.watchdog import Watchdog

WARM_UP_ITEMS = 16
SAME_MODEL = 0.9  # mean cosine; number formats differ a little, another model gives about 0
RECORDS_SECONDS = 5.0  # that reading or writing the catalogue may take; the cache must be faster


@dataclass(frozen=True)
class Machine:
    """What a process has, whichever bundle it serves: threads, Redis, metrics.

    Attributes:
        worker: one thread, which alone runs the LLM: more would only fight over the cores.
        tokenizer: one thread, which alone tokenises.
        backbone: one thread for the backbone: a pass takes a millisecond on one core, and must not wait
            for the LLM.
        store: Redis as a cache, which gives up soon.
        records: Redis as the keeper of the catalogue, with more patience.
        watchdog: tells whether one of the threads hangs.
        milvus: what searches items; None: FAISS does.
    """

    settings: Settings
    worker: ThreadPoolExecutor
    tokenizer: ThreadPoolExecutor
    backbone: ThreadPoolExecutor
    store: Store
    records: Store
    metrics: Metrics
    watchdog: Watchdog
    milvus: Milvus | None


@contextlib.asynccontextmanager
async def open_machine(settings: Settings, metrics: Metrics) -> AsyncIterator[Machine]:
    """Start the threads and connect to Redis.

    Raises:
        LLMEmbError: the state directory cannot be used.
    """
    async with contextlib.AsyncExitStack() as stack:
        worker, tokenizer, backbone = (
            ThreadPoolExecutor(1, name) for name in ("model", "tokenizer", "backbone")
        )
        for thread in (worker, tokenizer, backbone):
            stack.callback(thread.shutdown, wait=False, cancel_futures=True)
        # In this order: of some libraries the last word holds for all threads.
        loop, threads = asyncio.get_running_loop(), settings.threads or torch.get_num_threads()
        await loop.run_in_executor(backbone, _set_threads, 1)
        await loop.run_in_executor(worker, _set_threads, threads)
        store, records = await _open_stores(settings, stack)
        await stack.enter_async_context(Replicas(store, metrics))
        watched = {"model": worker, "tokenizer": tokenizer, "backbone": backbone}
        watchdog = await stack.enter_async_context(Watchdog(watched, settings.hung_seconds))
        uri = settings.index_uri
        seconds = settings.index_timeout_seconds
        milvus = None if uri is None else Milvus(uri.get_secret_value(), seconds)
        threads_of = (worker, tokenizer, backbone)
        yield Machine(settings, *threads_of, store, records, metrics, watchdog, milvus)


@dataclass(frozen=True)
class Serving:
    """A bundle at work.

    Attributes:
        live: the catalogue, as it is now.
        device: where the LLM runs, for example ``cpu`` or ``cuda``.
        dtype: the LLM's number format, for example ``bfloat16``.
        forward_pass: ``fused`` or ``transformers``.
        threads: CPU threads of the model.
    """

    settings: Settings
    bundle: Bundle
    store: Store
    embedder: Embedder
    recommender: Recommender
    metrics: Metrics
    watchdog: Watchdog
    live: LiveCatalogue
    device: str
    dtype: str
    forward_pass: str
    threads: int


@contextlib.asynccontextmanager
async def open_serving(machine: Machine, path: Path) -> AsyncIterator[Serving]:
    """Load a bundle, run its model and catch up with the catalogue; yield when it can answer requests.

    Raises:
        LLMEmbError: the bundle or the base model cannot be used, or they do not fit each other.
    """
    settings = machine.settings
    async with contextlib.AsyncExitStack() as stack:
        bundle, encoder, items = await asyncio.to_thread(_load, machine, path)
        cache = VectorCache(
            machine.store,
            fingerprint=_fingerprint(bundle, settings),
            dimensions=encoder.dimensions,
            ttl=settings.cache_ttl_seconds,
            memory_bytes=settings.cache_memory_mb * 2**20,
            metrics=machine.metrics,
        )
        engine = Engine(
            encoder,
            worker=machine.worker,
            tokenizer=machine.tokenizer,
            keep=cache.write,
            window_seconds=settings.batch_window_ms / 1000,
            batch_tokens=settings.batch_tokens,
            max_queue=settings.max_queue,
            deadline_seconds=settings.deadline_seconds,
            metrics=machine.metrics,
        )
        stack.push_async_callback(engine.close)
        embedder = Embedder(
            bundle, cache=cache, engine=engine, worker=machine.worker, metrics=machine.metrics
        )
        live = LiveCatalogue(
            bundle,
            items,
            records=Records(machine.records, replicas=settings.redis_replicas),
            embedder=embedder,
        )
        users = UserVectors(bundle.backbone, executor=machine.backbone, metrics=machine.metrics)
        recommender = Recommender(
            bundle, live=live, embedder=embedder, users=users, metrics=machine.metrics
        )
        count = min(WARM_UP_ITEMS, settings.max_queue)
        await _try_model(bundle, embedder, engine, recommender, count)
        await stack.enter_async_context(live)
        loop = asyncio.get_running_loop()
        yield Serving(
            settings=settings,
            bundle=bundle,
            store=machine.store,
            embedder=embedder,
            recommender=recommender,
            metrics=machine.metrics,
            watchdog=machine.watchdog,
            live=live,
            device=str(encoder.device),
            dtype=encoder.dtype,
            forward_pass=encoder.forward_pass,
            threads=await loop.run_in_executor(machine.worker, torch.get_num_threads),
        )


def _set_threads(threads: int) -> None:
    torch.get_num_threads()  # else the first operation would set what another thread last asked for
    torch.set_num_threads(threads)


def _load(machine: Machine, path: Path) -> tuple[Bundle, Encoder, LiveItems]:
    settings = machine.settings
    bundle = read_bundle(path, settings.bundle_key)
    encoder = bundle.load_encoder(settings.base_model, settings.precision)
    index, similar = open_indexes(bundle, settings.index_storage, machine.milvus)
    return bundle, encoder, LiveItems.of_bundle(bundle, index, similar)


def _fingerprint(bundle: Bundle, settings: Settings) -> str:
    # Vectors of 8-bit products are close to the exact ones, but not the same.
    kind = "" if settings.precision == "auto" else f":{settings.precision}"
    return bundle.manifest.encoder_fingerprint + kind


async def _open_stores(settings: Settings, stack: contextlib.AsyncExitStack) -> tuple[Store, Store]:
    """Connect to Redis: once for the cache, which gives up soon, and once for the catalogue."""
    revive = None
    if settings.redis_url is not None:
        url = settings.redis_url.get_secret_value()
    else:
        valkey = EmbeddedValkey(settings.state_dir, maxmemory=settings.embedded_maxmemory)
        await asyncio.to_thread(valkey.start)
        stack.push_async_callback(asyncio.to_thread, valkey.stop)
        url, revive = valkey.url, valkey.revive
    stores = []
    for seconds in (settings.redis_timeout_seconds, RECORDS_SECONDS):
        store = Store(url, timeout=seconds, revive=revive)
        stack.push_async_callback(store.close)
        await store.open()
        stores.append(store)
    return stores[0], stores[1]


async def _try_model(
    bundle: Bundle, embedder: Embedder, engine: Engine, recommender: Recommender, count: int
) -> None:
    """Embed and recommend, past the cache: what is broken shows now, not at the first request.

    Items alone and a batch of them: the first product of a size takes longer than those that follow. Their
    vectors must be those that the bundle holds.
    """
    readable = bundle.manifest.prompt.readable
    some = islice((one for one in bundle.catalogue if readable(one[1])), count)
    items = [(item_id, embedder.prepare(attributes, item_id)) for item_id, attributes in some]
    if not items:
        raise BundleError(f"{bundle.path}: no item has an attribute that the model reads")
    prompts = {item.key: embedder.prompt(item) for _, item in items}
    for key, prompt in prompts.items():
        _values((await engine.compute({key: prompt}))[key])
    computed = await engine.compute(prompts)
    # In the item space: LLM vectors of all texts are alike, whichever model they are of.
    found = bundle.adapt(np.stack([_values(computed[item.key]) for _, item in items]))
    positions = [bundle.catalogue.index[item_id] for item_id, _ in items]
    kept = bundle.adapt(bundle.llm_vectors[positions])
    agreement = float((unit_length(found) * unit_length(kept)).sum(1).mean())
    if not agreement >= SAME_MODEL:
        raise BundleError(
            f"{bundle.path}: the model does not give the vectors that the bundle holds "
            f"(cosine of {agreement:.2f} in the item space)"
        )
    await recommender.recommend([items[0][0]], Wanted(k=1))


def _values(outcome: LLMVector | Exception) -> NDArray[np.float16]:
    if isinstance(outcome, Exception):
        raise outcome
    return outcome.values
