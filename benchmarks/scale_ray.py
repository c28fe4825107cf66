"""``llmemb embed --engine ray`` against the same command in a single process; run by ``scale.py``.

All have one thread a worker, embed the same made-up items, and take turns. A run over a few items first
tells what starting costs; the rest of the time is for the items.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from report import must_show

from llmemb.bundle import read_bundle

LLMEMB = str(Path(sys.executable).with_name("llmemb"))
SINGLE, ONE, TWO = "single process", "ray, 1 worker", "ray, 2 workers"
WAYS = {
    SINGLE: [],
    ONE: ["--engine", "ray", "--workers", "1"],
    TWO: ["--engine", "ray", "--workers", "2"],
}
ITEMS, FEW = 2 * 4096, 8  # two parts of the command's
ROUNDS = 3
OVERHEAD = 0.15


def measure(bundle: Path) -> dict[str, Any]:
    """Return what ``report.write_report`` takes."""
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    starting: dict[str, list[float]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory(prefix="llmemb-scale-") as name:
        folder = Path(name)
        many, few = folder / "items.parquet", folder / "few.parquet"
        write_items(bundle, many, few)
        for number in range(ROUNDS):
            for way, options in WAYS.items():
                out = folder / f"{way.replace(' ', '-')}.parquet"
                starting[way].append(embed(bundle, few, folder / "few-out.parquet", options))
                seconds[way].append(embed(bundle, many, out, options))
                told = f"{starting[way][-1]:.1f} s to start, {seconds[way][-1]:.1f} s in all"
                print(f"round {number}: {way}: {told}", file=sys.stderr)
        first, *others = (
            pq.read_table(folder / f"{way.replace(' ', '-')}.parquet") for way in WAYS
        )
        same = all(other.equals(first) for other in others)
    rates = {
        way: [
            ITEMS / (all_of_it - start)
            for all_of_it, start in zip(seconds[way], starting[way], strict=True)
        ]
        for way in WAYS
    }
    overhead = statistics.median(
        single / ray - 1 for ray, single in zip(rates[ONE], rates[SINGLE], strict=True)
    )
    return {
        "what": f"llmemb embed over {ITEMS:,} made-up items, by Ray Data and in a single process, "
        "one thread a worker, CPU",
        "runs": ROUNDS,
        "promises": [
            must_show(
                f"overhead of {ONE}, over the {SINGLE}, start apart, median of rounds",
                round(overhead, 3),
                f"<= {OVERHEAD}",
                overhead <= OVERHEAD,
            ),
            must_show("the files of all ways are the same", same, "True", same),
        ],
        "items": ITEMS,
        "ways": {
            way: {
                "start_seconds": [round(one, 1) for one in starting[way]],
                "start_seconds_median": round(statistics.median(starting[way]), 1),
                "seconds": [round(one, 1) for one in seconds[way]],
                "items_per_second": round(statistics.median(rates[way]), 1),
            }
            for way in WAYS
        },
    }


def write_items(bundle: Path, many: Path, few: Path) -> None:
    """Write new items: each attribute is that of some item of the catalogue."""
    rng = np.random.default_rng(0)
    known = read_bundle(bundle).catalogue.attributes
    names = sorted({name for item in known for name in item})
    columns = {
        name: [known[i].get(name) for i in rng.integers(len(known), size=ITEMS)] for name in names
    }
    items = pa.table({"id": [f"new-{i}" for i in range(ITEMS)], **columns})
    pq.write_table(items, many)
    pq.write_table(items.slice(0, FEW), few)


def embed(bundle: Path, items: Path, out: Path, options: list[str]) -> float:
    """Run the command with a thread a worker; return the seconds that it took."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    out.unlink(missing_ok=True)
    began = time.perf_counter()
    subprocess.run(
        [LLMEMB, "embed", str(bundle), str(items), "--out", str(out), *options],
        env={**environment, "OMP_NUM_THREADS": "1"},
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return time.perf_counter() - began
