"""Quality, measured: every row of the report on one data set, three seeds, the test split.

    make quality DATA=data/beauty            # all of it; hours on two cores, resumed where it was
    python benchmarks/quality.py data/beauty --only 'id/*' --seeds 1

Writes ``results/quality-<data>.json`` and, with ``--page``, ``docs/results.md`` from all rows that are there.
What was measured is kept in ``results/quality-<data>``, the rank of every test user's target and the map of
the catalogue included: an interrupted run goes on where it was, and ``--seeds 0`` writes the report without
training anything.
Cheapest rows first, the first seed of all before the second of any. Nothing here is tuned: settings come
from the presets, which were chosen on validation.
"""

import itertools
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
from quality_map import MAPPED, lay_out
from quality_promises import promises
from quality_report import write_results_page
from quality_rows import (
    SEEDS,
    Measured,
    Rows,
    Workshop,
    all_rows,
    open_workshop,
    workshop_arguments,
)
from report import write_report

from llmemb.errors import LLMEmbError
from trainer.stages import only_run


def main() -> None:
    """Measure what is not measured yet and write the report."""
    parser = workshop_arguments(__doc__.splitlines()[0])
    parser.add_argument(
        "--only", nargs="+", default=["*"], metavar="PATTERN", help="rows: 'id/*' default/sasrec"
    )
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"at most ({SEEDS})")
    parser.add_argument("--page", action="store_true", help="write docs/results.md as well")
    arguments = parser.parse_args()
    workshop = open_workshop(arguments)
    with only_run(workshop.work):
        rows = [row for row in all_rows() if any(fnmatch(row.name, one) for one in arguments.only)]
        for seed, row in itertools.product(range(arguments.seeds), rows):
            if seed < row.runs:
                print(f"{row.name}, seed {seed}", file=sys.stderr)
                workshop.measure(row, seed)
        if arguments.seeds and MAPPED in (row.name for row in rows):
            lay_out(workshop)
        measured = workshop.rows()
        path = write(workshop, measured, arguments.results)
        if arguments.page:
            write_results_page(path, workshop, measured)
    print(path)


def write(workshop: Workshop, rows: Rows, folder: Path) -> Path:
    """Write the JSON of all rows that are there."""
    return write_report(
        f"quality-{workshop.data.facts.name}",
        f"quality on {workshop.data.facts.name}: leave-one-out, test split, {workshop.base.source}",
        max(len(seeds) for seeds in rows.values()),
        promises(rows, workshop.data),
        folder=folder,
        protocol={
            "full": "all items ranked",
            "unseen": "items of the user's history left out of the ranking, targets without a "
            "training interaction left out of the average",
            "sampled100": "the target among 100 fixed uniform negatives",
            "tail": "the 80% of items with the fewest training interactions",
            "seeds": "of the SRS: initial weights, order, dropout; LLM vectors are the same for all",
        },
        rows={name: figures(list(seeds.values())) for name, seeds in rows.items()},
    )


def figures(seeds: list[Measured]) -> dict[str, Any]:
    """Return a row's metrics, each as the mean and its seeds."""
    reports = [seed.report for seed in seeds]

    def merged(values: list[Any]) -> Any:
        if isinstance(values[0], dict):
            return {key: merged([value[key] for value in values]) for key in values[0]}
        if isinstance(values[0], int):
            return values[0]
        return {
            "mean": round(float(np.mean(values)), 5),
            "seeds": [round(value, 5) for value in values],
        }

    return {
        **merged(reports),
        "train_seconds": round(float(np.mean([seed.train_seconds for seed in seeds])), 1),
        "epochs": [seed.epochs for seed in seeds],
    }


if __name__ == "__main__":
    try:
        main()
    except LLMEmbError as error:
        sys.exit(f"error: {error}")
