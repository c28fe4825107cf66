"""What `llmemb capacity` reckons with, measured; and whether it predicts what it was not fitted to.

    python benchmarks/capacity.py data/beauty               # half an hour on two cores

Services with all layers of the LLM and catalogues made up of that data, of several sizes and widths, are
measured one after the other. Costs are fitted to some of them; the others are predicted. All of it is done
three times, and the least of each figure counts: a machine that is shared is only ever slower than it is.
Writes ``service/capacity.json`` and ``results/capacity.json``.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
import timeit
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import psutil
import redis
from durability import PORTS, running_valkey
from load import Answer, closed_loop, figures, open_loop
from report import machine, must_show, write_report
from rich.progress import track
from scipy.optimize import nnls
from serve import Server, llmemb, trained_bundle
from transformers import AutoTokenizer

from llmemb.adapter import Adapter, AdapterSettings
from llmemb.base_model import DEFAULT_BASE_MODEL, find_base_model
from llmemb.bundle import ENCODER, Bundle, read_bundle, write_bundle
from llmemb.catalogue import Catalogue
from llmemb.files import json_bytes, replacing_file
from llmemb.srs import build_backbone
from service import capacity
from service.capacity import Constants, cost, terms
from service.indexes import open_indexes
from service.live_items import LiveItems
from service.records import CHANGES, KEYS, RECORDS

FITTED = [
    (10_000, 64),
    (10_000, 128),
    (50_000, 128),
    (100_000, 64),
    (200_000, 128),
    (1_000_000, 64),
]
PREDICTED = [(30_000, 96), (150_000, 96)]
OFF = 0.2
PASSES = 3
CLIENTS, SECONDS, WARM_UP_SECONDS, REST_SECONDS = 16, 10, 3, 5
PUT, AT_ONCE = 640, 16  # fewer than make a service build its indexes anew
SEQUENCE, K = 9, 10
REBUILDS, CACHES = 5, 1 << 29
ITEMS_A_CENTRE = 500
MODELLED = {  # of which terms each cost is a sum
    "replica_bytes": ("once", "item", "number searched exactly", "number in lists"),
    "recommend_seconds": ("once", "number searched exactly", "item in lists", "number in lists"),
    "recommend_cpu_seconds": (
        "once",
        "number searched exactly",
        "item in lists",
        "number in lists",
    ),
    "rebuild_seconds": (
        "item",
        "number searched exactly",
        "item in lists",
        "number in lists",
        "number times lists",
    ),
}
MEANS = ("new_item_seconds", "new_item_cpu_seconds", "record_bytes", "vector_bytes")

Found = dict[str, float]
Point = tuple[int, int]


def main() -> None:
    """Measure, fit, predict, and write both files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="prepared data (`llmemb data prepare`)")
    parser.add_argument("--base-model", default=DEFAULT_BASE_MODEL, help="the LLM")
    arguments = parser.parse_args()
    base = find_base_model(arguments.base_model)
    passes: dict[Point, list[Found]] = {point: [] for point in [*FITTED, *PREDICTED]}
    follows = []
    with tempfile.TemporaryDirectory(prefix="llmemb-capacity-") as name:
        trained = read_bundle(trained_bundle(arguments.data, base.path, Path(name)))
        paths = {
            point: made_up(trained, Path(name) / f"{point[0]}-{point[1]}", *point)
            for point in track(passes, description="making bundles")
        }
        for _ in range(PASSES):
            for point, path in paths.items():
                passes[point].append(measured(path))
                print(point, json.dumps(passes[point][-1]), file=sys.stderr)
            follows.append(follow_cpu_seconds(paths[FITTED[0]]))
            print("follow", follows[-1], file=sys.stderr)
    least = {
        point: {name: min(one[name] for one in found) for name in found[0]}
        for point, found in passes.items()
    }
    tokens = tokens_an_item(trained, base.path)
    constants = fitted({point: least[point] for point in FITTED}, min(follows), tokens)
    with replacing_file(Path(capacity.__file__).with_name("capacity.json")) as aside:
        aside.write_bytes(json_bytes(constants.model_dump()))
    predictions = {
        f"{items:,} items, {width} wide": {
            name: {"predicted": value, "measured": least[items, width][name]}
            for name, value in predicted(constants, items, width).items()
        }
        for items, width in PREDICTED
    }
    path = write_report(
        "capacity",
        f"one service on {os.cpu_count()} cores, {base.source} (all layers), CPU",
        PASSES,
        promises(predictions),
        fitted_to=[{"items": i, "width": w, **least[i, w]} for i, w in FITTED],
        predictions=predictions,
    )
    print(path)


def made_up(trained: Bundle, folder: Path, items: int, width: int) -> Path:
    """Write a bundle of so many items, the trained one's over and over, with vectors in clusters."""
    shutil.copytree(trained.path / ENCODER, folder / ENCODER)
    rng = np.random.default_rng(items)
    known = trained.catalogue.attributes
    attributes = [
        known[i] if i < len(known) else {**known[i % len(known)], "edition": i // len(known)}
        for i in range(items)
    ]
    catalogue = Catalogue([f"item-{i}" for i in range(items)], attributes)
    settings = AdapterSettings(inputs=trained.projection.dimensions, outputs=width)
    srs = trained.manifest.srs.model_copy(update={"width": width, "unit_items": True})
    facts = trained.manifest.data.model_copy(update={"name": "made up", "items": items})
    write_bundle(
        folder,
        trained.manifest.model_copy(update={"adapter": settings, "srs": srs, "data": facts}),
        catalogue=catalogue,
        popularity=rng.integers(0, 100, items),
        projection=trained.projection,
        adapter=Adapter(settings).eval(),
        backbone=build_backbone(srs).eval(),
        llm_vectors=np.resize(trained.llm_vectors, (items, trained.llm_vectors.shape[1])),
        item_vectors=clustered(rng, items, width),
        residuals=None,
        places=rng.uniform(-1, 1, (items, 2)).astype(np.float32),
        card="# made up\n",
    )
    return folder


def clustered(rng: np.random.Generator, items: int, width: int) -> np.ndarray:
    """Return vectors of length 1, float32 ``[items, width]``, around centres."""
    centres = rng.standard_normal((items // ITEMS_A_CENTRE, width), dtype=np.float32)
    found = centres[rng.integers(0, len(centres), items)]
    found += rng.standard_normal(found.shape, dtype=np.float32)
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    return found


def measured(path: Path) -> Found:
    """Return the figures of one service."""
    bundle = read_bundle(path)
    found = {"rebuild_seconds": rebuild_seconds(bundle)}
    catalogue = bundle.catalogue
    del bundle
    rng = np.random.default_rng(0)

    def sequences() -> Iterator[bytes]:
        while True:
            ids = [catalogue.ids[i] for i in rng.integers(0, len(catalogue), SEQUENCE)]
            yield json.dumps({"sequence": ids, "k": K}).encode()

    with tempfile.TemporaryDirectory(prefix="llmemb-capacity-") as name:
        folder = Path(name)
        with llmemb(path, folder, LLMEMB_DEADLINE_SECONDS="300") as running:
            url = f"{running.url}/recommend"
            closed_loop(url, sequences(), CLIENTS, WARM_UP_SECONDS)
            found["replica_bytes"] = running.memory()
            before = cpu_seconds(running)
            answers = closed_loop(url, sequences(), CLIENTS, SECONDS)
            found["recommend_cpu_seconds"] = (cpu_seconds(running) - before) / len(answers)
            found["recommend_seconds"] = 1 / figures(answers)["per_second"]
            found["request_bytes"] = fmean(len(a.head) + len(a.body) for a in answers) + len(
                next(sequences())
            )
            with redis.Redis(unix_socket_path=str(folder / "state" / "valkey.sock")) as valkey:
                held = valkey.info("memory")["used_memory_dataset"]
                before = cpu_seconds(running)
                answers = put(running.url, catalogue)
                found["new_item_cpu_seconds"] = (cpu_seconds(running) - before) / PUT
                found["new_item_seconds"] = 1 / (AT_ONCE * figures(answers)["per_second"])
                held = valkey.info("memory")["used_memory_dataset"] - held
                kept = sum(valkey.memory_usage(key, samples=0) or 0 for key in KEYS)
                assert valkey.hlen(RECORDS) == valkey.xlen(CHANGES) == PUT
    return found | {"record_bytes": kept / PUT, "vector_bytes": (held - kept) / PUT}


def put(url: str, catalogue: Catalogue) -> list[Answer]:
    """Put new items, many at a time; return the answers."""
    new = [
        {"id": f"new-{i}", "attributes": {**catalogue.attributes[i], "edition": f"new {i}"}}
        for i in range(PUT)
    ]
    bodies = [json.dumps({"items": new[i : i + AT_ONCE]}).encode() for i in range(0, PUT, AT_ONCE)]
    answers = open_loop(f"{url}/items", bodies, rate=1e9)
    assert all(one.status == 200 for one in answers), answers[0].body
    return answers


def rebuild_seconds(bundle: Bundle) -> float:
    """Return how long it takes to build the indexes anew, of items of which one in a hundred has gone."""
    items = LiveItems.of_bundle(bundle, *open_indexes(bundle, "float16", None))
    left = np.flatnonzero(np.arange(len(items)) % 100)
    # Several times, as the first waits for memory from the system; and with nothing of it in the processor's
    # caches, which requests have filled meanwhile.
    caches = np.empty(CACHES >> 3)
    found = timeit.repeat(
        lambda: items.compacted(left), lambda: caches.fill(0), number=1, repeat=REBUILDS
    )
    return min(found)


def follow_cpu_seconds(path: Path) -> float:
    """Return the CPU time of a replica for each item that another one puts."""
    with tempfile.TemporaryDirectory(prefix="llmemb-capacity-") as name, ExitStack() as stack:
        folder = Path(name)
        valkey = stack.enter_context(running_valkey(folder / "valkey"))
        redis_url = f"redis://127.0.0.1:{valkey.port}/0"
        asked, other = (
            stack.enter_context(
                llmemb(
                    path,
                    folder,
                    port,
                    LLMEMB_REDIS_URL=redis_url,
                    LLMEMB_DEADLINE_SECONDS="300",
                )
            )
            for port in PORTS
        )
        time.sleep(REST_SECONDS)
        before, began = cpu_seconds(other), time.perf_counter()
        time.sleep(REST_SECONDS)
        idle = (cpu_seconds(other) - before) / (time.perf_counter() - began)
        before, began = cpu_seconds(other), time.perf_counter()
        put(asked.url, read_bundle(path).catalogue)
        time.sleep(REST_SECONDS)
        busy = cpu_seconds(other) - before - idle * (time.perf_counter() - began)
    return busy / PUT


def cpu_seconds(running: Server) -> float:
    """Return the CPU time that a service has taken so far."""
    taken = psutil.Process(running.process.pid).cpu_times()
    return float(taken.user + taken.system)


def tokens_an_item(trained: Bundle, base: Path) -> float:
    """Return how many tokens the LLM reads of an item, on average of those that are put."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    prompts = map(trained.manifest.prompt.render, trained.catalogue.attributes[:PUT])
    return fmean(len(tokenizer(one)["input_ids"]) for one in prompts)


def fitted(points: dict[Point, Found], follow: float, tokens: float) -> Constants:
    """Fit costs that are not negative; what matters is by what share each is off."""
    costs = {}
    for which, names in MODELLED.items():
        values = np.array([found[which] for found in points.values()])
        rows = np.array([[terms(*point)[name] for name in names] for point in points])
        scale = rows.max(axis=0)
        each, _ = nnls(rows / scale / values[:, None], np.ones(len(values)))
        costs[which] = dict(zip(names, (each / scale).tolist(), strict=True))
    means = {name: fmean(found[name] for found in points.values()) for name in MEANS}
    return Constants(
        measured_on=machine()["cpu"],
        replica_cores=os.cpu_count(),
        tokens=tokens,
        follow_cpu_seconds=follow,
        request_bytes=fmean(found["request_bytes"] for found in points.values()),
        **costs,
        **means,
    )


def predicted(constants: Constants, items: int, width: int) -> Found:
    """Return what is predicted of a service."""
    return {which: cost(getattr(constants, which), items, width) for which in MODELLED} | {
        name: getattr(constants, name) for name in MEANS
    }


def promises(predictions: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what was promised, and whether it holds."""
    found = []
    for which, figures_of in predictions.items():
        for name, one in figures_of.items():
            off = round(one["predicted"] / one["measured"] - 1, 3)
            line = f"{which}: {name.replace('_', ' ')}, predicted over measured, less 1"
            found.append(must_show(line, off, f"within {OFF}", abs(off) <= OFF))
    return found


if __name__ == "__main__":
    main()
