"""``llmemb embed`` over a million items, killed three times: is all there, once, in level memory?

    python benchmarks/bulk.py --items 1000000        # about an hour on two cores

Items are made up and the model is tiny (the one that the tests use): what is measured is the way
around the model. Writes ``results/bulk.json``.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.compute as pc
import pyarrow.parquet as pq
from report import must_show, write_report

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from tiny_bundle import make_tiny_bundle

KILLS = 3
FLAT = 1.1
LLMEMB = str(Path(sys.executable).with_name("llmemb"))


def main() -> None:
    """Measure and write ``results/bulk.json``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=1_000_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="llmemb-bulk-") as name:
        folder = Path(name)
        bundle = make_tiny_bundle(folder)
        items = folder / "items.jsonl"
        write_items(items, arguments.items)
        out = folder / "vectors.parquet"
        command = [LLMEMB, "embed", str(bundle), str(items), "--out", str(out)]
        pace = seconds_to_parts(command, out, 4)
        whole = pace / 4 * arguments.items / 4096
        # Each somewhere in its share of the work, at any point of a part's.
        kills = np.random.default_rng(0).uniform(0.5, 1, KILLS) * whole / (KILLS + 1)
        memory = [run(command, kill_after=float(seconds)) for seconds in kills]
        began = time.perf_counter()
        memory.append(run(command))
        last = time.perf_counter() - began
        found = check(out, arguments.items)
    longest = max(memory, key=len)
    settled = longest[len(longest) // 4 :]
    growth = round(max(settled) / min(settled), 3)
    print(
        write_report(
            "bulk",
            f"llmemb embed over {arguments.items:,} made-up items, tiny model, killed {KILLS} times",
            1,
            [
                must_show("rows missing", found["missing"], "0", found["missing"] == 0),
                must_show("rows twice", found["twice"], "0", found["twice"] == 0),
                must_show("rows out of order", found["moved"], "0", found["moved"] == 0),
                must_show(
                    "memory, highest over lowest after a quarter of the longest run",
                    growth,
                    f"<= {FLAT}",
                    growth <= FLAT,
                ),
            ],
            last_run_seconds=round(last, 1),
            memory_mb=[[round(one / 2**20) for one in thinned(ones)] for ones in memory],
            **found,
        )
    )


def write_items(path: Path, count: int) -> None:
    """Write made-up items as JSON Lines."""
    rng = np.random.default_rng(1)
    with path.open("w", encoding="utf-8") as file:
        for i in range(count):
            title = " ".join(f"word{word}" for word in rng.integers(5000, size=6))
            item = {"id": f"item-{i}", "title": title, "year": i % 90}
            file.write(json.dumps(item) + "\n")


def seconds_to_parts(command: list[str], out: Path, parts: int) -> float:
    """Run until so many parts are written; return the seconds that they took after the first."""
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        first = 0.0
        while process.poll() is None:
            written = len(list(out.with_name(f"{out.name}.work").rglob("part-*.parquet")))
            first = first or (time.perf_counter() if written else 0.0)
            if written > parts:
                break
            time.sleep(0.02)
        process.kill()
    return time.perf_counter() - first


def run(command: list[str], kill_after: float | None = None) -> list[int]:
    """Run, killed after so many seconds; return the bytes that it held, sampled each half second."""
    memory = []
    began = time.perf_counter()
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            if kill_after is not None and time.perf_counter() - began > kill_after:
                process.kill()
                break
            memory.append(int(watched.memory_info().rss))
            time.sleep(0.5)
    if kill_after is None and process.returncode != 0:
        raise RuntimeError(f"{command} ended with {process.returncode}")
    return memory


def check(out: Path, count: int) -> dict[str, Any]:
    """Return what is missing, twice, or not where it was in the items' file."""
    ids = pq.read_table(out, columns=["id"])["id"]
    numbers = pc.cast(pc.replace_substring(ids, "item-", ""), "int64").to_numpy()
    distinct = np.unique(numbers)
    return {
        "rows": len(numbers),
        "missing": count - len(distinct),
        "twice": len(numbers) - len(distinct),
        "moved": int((np.diff(numbers) < 0).sum()),
    }


def thinned(values: list[int]) -> list[int]:
    """Return about 40 of the values, spread evenly."""
    return values[:: max(1, len(values) // 40)]


if __name__ == "__main__":
    main()
