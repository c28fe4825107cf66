"""What a deployment needs: replicas, cores, memory, Redis, network; and what of it breaks first.

Every cost is a sum of terms in the number of items and the width of their vectors, see :func:`terms`. What a
term costs was measured by ``benchmarks/capacity.py``, which keeps it in ``capacity.json`` beside this file.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Self

from pydantic import BaseModel, ConfigDict

from service.faiss_index import lists_of
from service.live_items import RECENT_SHARE, changes_kept

BUSY = 0.6  # share of its time that a replica is planned to work: the rest is for peaks
REPLICAS = 2  # at least: one may be restarted
KEPT_SECONDS = 30 * 24 * 3600  # vectors stay in Redis so long (`cache_ttl_seconds`)
LARGE_MACHINE = 1 << 40  # bytes of memory of a large machine
LARGE_REDIS = 64 << 30  # bytes of a Redis that is still copied to its replica within minutes
SLOW_SECONDS = 0.05  # of one recommendation
# Of a GPU, reckoned and not measured: 30% of the 989 TFLOP/s that an H100 has in bfloat16, and two operations
# for each of the weights of SmolLM2-135M that a token is multiplied with.
GPU_FLOPS, FLOP_A_TOKEN = 0.3 * 989e12, 2 * 106e6


class Constants(BaseModel):
    """What was measured, on the machine that is named.

    Costs are given by term: bytes of a replica, seconds that it takes to answer one `/recommend` of many and
    of CPU time for it, and seconds of building the indexes anew.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    measured_on: str
    replica_cores: int  # of the machine, which one replica had to itself
    tokens: float  # of an item, on average
    replica_bytes: dict[str, float]
    recommend_seconds: dict[str, float]
    recommend_cpu_seconds: dict[str, float]
    rebuild_seconds: dict[str, float]
    new_item_seconds: float  # a replica takes for one of many that are put
    new_item_cpu_seconds: float
    follow_cpu_seconds: float  # of each other replica, which takes it over
    record_bytes: float  # of Redis, for each item that was put
    vector_bytes: float  # of Redis, for each that was embedded
    request_bytes: float  # of a request to `/recommend` and its answer: nine items in, ten out

    @classmethod
    def measured(cls) -> Self:
        """Return those that come with the package."""
        return cls.model_validate_json((files("service") / "capacity.json").read_text())


def terms(items: int, width: int) -> dict[str, float]:
    """Return what costs are sums of; a catalogue without inverted lists is searched exactly."""
    lists = lists_of(items)
    numbers = items * width
    return {
        "once": 1,
        "item": items,
        "number searched exactly": 0 if lists else numbers,
        "item in lists": items if lists else 0,
        "number in lists": numbers if lists else 0,
        "number times lists": numbers * lists,
    }


def cost(constants: Mapping[str, float], items: int, width: int) -> float:
    """Return the sum of the terms that cost something."""
    found = terms(items, width)
    return sum(each * found[name] for name, each in constants.items())


@dataclass(frozen=True)
class Workload:
    """What is asked of a deployment.

    Attributes:
        items: of the catalogue.
        rps: requests a second to `/recommend`.
        new_items_per_second: put into the catalogue.
        dim: width of item vectors.
    """

    items: int
    rps: float
    new_items_per_second: float
    dim: int


@dataclass(frozen=True)
class Plan:
    """What a deployment needs.

    Attributes:
        replicas: processes, each with as many cores as it was measured with; None: no number of them would
            do, see ``limits``.
        cores: that they keep busy.
        replica_bytes: memory of each.
        reload_bytes: and while it reloads a bundle, when it has two.
        rebuild_seconds: how long its indexes take to be built anew.
        rebuild_every_seconds: and how often that happens; None: never.
        redis_bytes: a record of each item that was ever put (all, at worst), and the vectors of a month.
        network_bits_per_second: of requests and answers.
        embedding_cores: of ``cores``, those that embed new items: what GPUs would take over.
        gpus: as much of a GPU would; reckoned, not measured.
        limits: what does not hold any more at this size, by a word for it, and what to do about it.
    """

    replicas: int | None
    cores: float
    replica_bytes: float
    reload_bytes: float
    rebuild_seconds: float
    rebuild_every_seconds: float | None
    redis_bytes: float
    network_bits_per_second: float
    embedding_cores: float
    gpus: float
    limits: dict[str, str]


def plan(workload: Workload, constants: Constants) -> Plan:
    """Return what a workload needs."""
    items, width, new = workload.items, workload.dim, workload.new_items_per_second
    each = cost(constants.recommend_seconds, items, width)
    embed = new * constants.new_item_seconds
    replica_bytes = cost(constants.replica_bytes, items, width)
    rebuild = cost(constants.rebuild_seconds, items, width)
    every = changes_kept(items) / new if new else None
    follow = new * constants.follow_cpu_seconds
    # What every replica does, however many there are: it takes over each change, and builds its indexes.
    own = follow + (rebuild / every if every else 0)
    left = BUSY - own
    replicas = max(REPLICAS, math.ceil((workload.rps * each + embed) / left)) if left > 0 else None
    embedding_cores = new * constants.new_item_cpu_seconds
    recommend_cpu = workload.rps * cost(constants.recommend_cpu_seconds, items, width)
    return Plan(
        replicas=replicas,
        cores=recommend_cpu + embedding_cores + (replicas or 0) * own,
        replica_bytes=replica_bytes,
        reload_bytes=2 * replica_bytes,
        rebuild_seconds=rebuild,
        rebuild_every_seconds=every,
        redis_bytes=items * constants.record_bytes
        + min(items, new * KEPT_SECONDS) * constants.vector_bytes,
        network_bits_per_second=8 * workload.rps * constants.request_bytes,
        embedding_cores=embedding_cores,
        gpus=new * constants.tokens * FLOP_A_TOKEN / GPU_FLOPS,
        limits=_limits(each, replica_bytes, own, items * constants.record_bytes),
    )


def _limits(each: float, replica_bytes: float, own: float, record_bytes: float) -> dict[str, str]:
    """Return what does not hold any more."""
    limits = {}
    if each > SLOW_SECONDS:
        limits["search"] = (
            f"One recommendation takes {1000 * each:,.0f} ms of a replica, most of it the search. "
            "Let Milvus search: LLMEMB_INDEX_URI."
        )
    if 2 * replica_bytes > LARGE_MACHINE:
        limits["memory"] = (
            f"A replica holds every item: {shown_bytes(replica_bytes)}, twice that while it "
            "reloads. Serve parts of the catalogue (by market or category) from deployments of their own."
        )
    if own > BUSY:
        limits["changes"] = (
            "Each replica takes over every change, and builds its indexes anew after one in "
            f"{1 / RECENT_SHARE:.0f} items: that alone would keep it busy {own:.0%} of the time. "
            "Bring new items in with a new bundle, and put only those that cannot wait."
        )
    if record_bytes > LARGE_REDIS:
        limits["Redis"] = (
            "The records of all items are one hash, on one node of Redis: "
            f"{shown_bytes(record_bytes)} if all were put one by one. Bring them in with a bundle: only "
            "items that are put have records."
        )
    return limits


def shown_bytes(count: float) -> str:
    """Return bytes with the largest unit that there is one of."""
    power = min(4, max(0, int(math.log(max(count, 1), 1024))))
    return (
        f"{count / 1024**power:,.{0 if power < 2 else 1}f} {['B', 'KB', 'MB', 'GB', 'TB'][power]}"
    )


def rows(found: Plan, constants: Constants) -> list[tuple[str, str, str]]:
    """Return a plan for people: names, values, and what they mean."""
    every = found.rebuild_every_seconds
    return [
        (
            "replicas",
            f"{found.replicas:,}" if found.replicas else "no number will do",
            f"of {constants.replica_cores} cores, {BUSY:.0%} busy, at least {REPLICAS}",
        ),
        ("cores", f"{found.cores:,.1f}", f"kept busy, {found.embedding_cores:,.1f} by new items"),
        (
            "GPUs",
            f"{found.gpus:,.2f}" if found.gpus >= 0.01 else "under 0.01",
            "of an H100, in place of those; reckoned, not measured",
        ),
        (
            "memory",
            shown_bytes(found.replica_bytes),
            f"a replica; {shown_bytes(found.reload_bytes)} while it reloads",
        ),
        ("Redis", shown_bytes(found.redis_bytes), "if every item was put one by one, at worst"),
        (
            "network",
            f"{found.network_bits_per_second / 1e6:,.1f} Mbit/s",
            "of requests and answers",
        ),
        (
            "indexes anew",
            f"every {every:,.0f} s" if every else "never",
            f"in {found.rebuild_seconds:,.1f} s of each replica" if every else "",
        ),
    ]
