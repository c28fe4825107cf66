"""Everything that answers requests, put together from the settings and taken apart again."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import torch

from llmemb.bundle import Bundle, read_bundle
from llmemb.encoder import Encoder
from llmemb.errors import BundleError
from service.cache import VectorCache
from service.embedder import Embedder
from service.engine import Engine
from service.index import ItemIndex, unit_length
from service.recommender import Recommender
from service.settings import Settings
from service.store import Store
from service.telemetry import Metrics
from service.valkey import EmbeddedValkey

WARM_UP_ITEMS = 16


@dataclass(frozen=True)
class Serving:
    """A bundle at work.

    Attributes:
        similar: index over the item vectors at unit length.
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
    similar: ItemIndex
    device: str
    dtype: str
    forward_pass: str
    threads: int


@contextlib.asynccontextmanager
async def open_serving(settings: Settings) -> AsyncIterator[Serving]:
    """Load the bundle, open the store and run the model once; yield when requests can be answered.

    Raises:
        LLMEmbError: the bundle, the base model or the state directory cannot be used.
    """
    async with contextlib.AsyncExitStack() as stack:
        # One thread: the encoder is not safe in two, and more would only fight over the cores.
        worker = ThreadPoolExecutor(
            1, "model", initializer=_set_threads, initargs=(settings.threads,)
        )
        tokenizer = ThreadPoolExecutor(1, "tokenizer")
        for thread in (worker, tokenizer):
            stack.callback(thread.shutdown, wait=False, cancel_futures=True)
        loop = asyncio.get_running_loop()
        bundle, encoder = await loop.run_in_executor(worker, _load, settings)
        store = await _open_store(settings, stack)
        metrics = Metrics()
        cache = VectorCache(
            store,
            fingerprint=_fingerprint(bundle, settings),
            dimensions=encoder.dimensions,
            ttl=settings.cache_ttl_seconds,
            memory_bytes=settings.cache_memory_mb * 2**20,
            metrics=metrics,
        )
        engine = Engine(
            encoder,
            worker=worker,
            tokenizer=tokenizer,
            keep=cache.write,
            window_seconds=settings.batch_window_ms / 1000,
            batch_tokens=settings.batch_tokens,
            max_queue=settings.max_queue,
            deadline_seconds=settings.deadline_seconds,
        )
        stack.push_async_callback(engine.close)
        embedder = Embedder(bundle, cache=cache, engine=engine, worker=worker)
        index = ItemIndex(bundle.item_vectors)
        recommender = Recommender(bundle, index=index, embedder=embedder, worker=worker)
        count = min(WARM_UP_ITEMS, settings.max_queue)
        await _try_model(bundle, embedder, engine, recommender, count)
        yield Serving(
            settings=settings,
            bundle=bundle,
            store=store,
            embedder=embedder,
            recommender=recommender,
            metrics=metrics,
            similar=ItemIndex(unit_length(bundle.item_vectors)),
            device=str(encoder.device),
            dtype=encoder.dtype,
            forward_pass=encoder.forward_pass,
            threads=await loop.run_in_executor(worker, torch.get_num_threads),
        )


def _set_threads(threads: int | None) -> None:
    if threads is not None:
        torch.set_num_threads(threads)


def _load(settings: Settings) -> tuple[Bundle, Encoder]:
    bundle = read_bundle(settings.bundle)
    return bundle, bundle.load_encoder(settings.base_model, settings.precision)


def _fingerprint(bundle: Bundle, settings: Settings) -> str:
    # Vectors of 8-bit products are close to the exact ones, but not the same.
    kind = "" if settings.precision == "auto" else f":{settings.precision}"
    return bundle.manifest.encoder_fingerprint + kind


async def _open_store(settings: Settings, stack: contextlib.AsyncExitStack) -> Store:
    timeout = settings.redis_timeout_seconds
    if settings.redis_url is not None:
        store = Store(settings.redis_url.get_secret_value(), timeout=timeout)
    else:
        valkey = EmbeddedValkey(settings.state_dir, maxmemory=settings.embedded_maxmemory)
        await asyncio.to_thread(valkey.start)
        stack.push_async_callback(asyncio.to_thread, valkey.stop)
        store = Store(valkey.url, timeout=timeout, revive=valkey.revive)
    stack.push_async_callback(store.close)
    await store.open()
    return store


async def _try_model(
    bundle: Bundle, embedder: Embedder, engine: Engine, recommender: Recommender, count: int
) -> None:
    """Embed and recommend, past the cache: what is broken shows now, not at the first request.

    Items alone and a batch of them: the first product of a size takes longer than those that follow.
    """
    readable = bundle.manifest.prompt.readable
    some = islice((one for one in bundle.catalogue if readable(one[1])), count)
    items = [(item_id, embedder.prepare(attributes, item_id)) for item_id, attributes in some]
    if not items:
        raise BundleError(f"{bundle.path}: no item has an attribute that the model reads")
    prompts = {item.key: embedder.prompt(item) for _, item in items}
    for key, prompt in prompts.items():
        outcome = (await engine.compute({key: prompt}))[key]
        if isinstance(outcome, Exception):
            raise outcome
    await engine.compute(prompts)
    await recommender.recommend([items[0][0]], k=1, exclude_seen=True, exclude=())
