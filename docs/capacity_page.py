"""Writes the tables of ``docs/capacity.md``: ``python docs/capacity_page.py``."""

import json
from collections.abc import Iterator
from pathlib import Path

from llmemb.files import replacing_file
from service.capacity import Constants, Workload, plan, rows

PAGE = Path(__file__).with_name("capacity.md")
MEASURED = PAGE.parent.parent / "benchmarks" / "results" / "capacity.json"
SIZES = [10**power for power in range(5, 10)]
UNITS = {
    "replica_bytes": ("memory of a replica", 2**20, "MB"),
    "recommend_seconds": ("a recommendation, of many at once", 1e-3, "ms"),
    "recommend_cpu_seconds": ("CPU time of a recommendation", 1e-3, "ms"),
    "rebuild_seconds": ("indexes built anew", 1, "s"),
    "new_item_seconds": ("a new item, of many at once", 1e-3, "ms"),
    "new_item_cpu_seconds": ("CPU time of a new item", 1e-3, "ms"),
    "record_bytes": ("Redis: record of an item that was put", 1, "bytes"),
    "vector_bytes": ("Redis: cached vector", 1, "bytes"),
}


def page() -> str:
    """Return the page, its tables made anew."""
    text = PAGE.read_text(encoding="utf-8")
    for name, lines in (("predicted", predicted()), ("on paper", on_paper()), ("limits", limits())):
        before, rest = text.split(f"<!-- {name} -->")
        _, after = rest.split(f"<!-- end of {name} -->")
        table = "\n".join(lines)
        text = f"{before}<!-- {name} -->\n\n{table}\n\n<!-- end of {name} -->{after}"
    return text


def predicted() -> Iterator[str]:
    """Yield the table of predictions, and of what was measured."""
    found = json.loads(MEASURED.read_text())["predictions"]
    yield "| | " + " | ".join(f"{where}: predicted | measured | off" for where in found) + " |"
    yield "|---|" + "---:|" * 3 * len(found)
    for name, (title, unit, symbol) in UNITS.items():
        cells = []
        for of in found.values():
            one = of[name]
            off = one["predicted"] / one["measured"] - 1
            values = [one[which] / unit for which in ("predicted", "measured")]
            cells += [f"{value:,.0f}" if value >= 100 else f"{value:.3g}" for value in values]
            cells.append(f"{off:+.0%}")
        yield f"| {title}, {symbol} | " + " | ".join(cells) + " |"


def workload(items: int) -> Workload:
    """Return what a catalogue of that size is asked on paper: a billion items, a million times a second."""
    return Workload(items, rps=items / 1e3, new_items_per_second=items / 1e6, dim=128)


def on_paper() -> Iterator[str]:
    """Yield the table of plans, a column each."""
    constants = Constants.measured()
    asked = [workload(items) for items in SIZES]
    plans = [plan(one, constants) for one in asked]
    yield "| items | " + " | ".join(f"{items:,}" for items in SIZES) + " |"
    yield "|---|" + "---:|" * len(SIZES)
    yield "| requests a second | " + " | ".join(f"{one.rps:,.0f}" for one in asked) + " |"
    new = " | ".join(f"{one.new_items_per_second:,.9g}" for one in asked)
    yield f"| new items a second | {new} |"
    for row in zip(*(rows(one, constants) for one in plans), strict=True):
        yield f"| {row[0][0]} | " + " | ".join(value for _, value, _ in row) + " |"
    yield "| breaks | " + " | ".join(", ".join(one.limits) or "-" for one in plans) + " |"


def limits() -> Iterator[str]:
    """Yield the table of what breaks, first things first."""
    constants = Constants.measured()
    yield "| from items | breaks | |"
    yield "|---:|---|---|"
    named: set[str] = set()
    for items in (digit * power for power in SIZES for digit in range(1, 10)):
        for name, limit in plan(workload(items), constants).limits.items():
            if name not in named:
                yield f"| {items:,} | {name} | {limit} |"
        named |= set(plan(workload(items), constants).limits)


if __name__ == "__main__":
    text = page()
    with replacing_file(PAGE) as aside:
        aside.write_text(text, encoding="utf-8")
