"""How long an epoch takes: RAT, the ID-only SASRec and RecTools' SASRec, in turns on the same cores.

    python benchmarks/epochs.py data/beauty --rounds 3      # minutes; the machine should do nothing else

All three: softmax over all items, the same width, depth, length, dropout and batch. Ours count the validation
after the epoch, the peer's does not. Writes ``results/epochs.json``.
"""

import os
import tempfile
from pathlib import Path
from statistics import median

import torch
from quality_rows import PLAIN, Row, open_workshop, workshop_arguments
from rectools_peer import rectools_scorer
from report import must_show, write_report

from trainer.fit import Epoch
from trainer.rat import adapted_model, collaborative_model, train_collaborative, train_rat
from trainer.train import Run

LEAST = 3  # times as fast as the peer


def main() -> None:
    """Time whole epochs in turns and write the report."""
    parser = workshop_arguments(__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    workshop = open_workshop(arguments)
    one_epoch = ("collaborative.epochs=1", "rat.epochs=1")
    loss = ("collaborative.loss=softmax", "rat.loss=softmax", "rat.logit_adjustment=0")
    row = Row("", "adapted", overrides=(*PLAIN, *loss, *one_epoch, "scft.epochs=0"))
    run = workshop.run(row, seed=0)
    facts = run.data.facts
    _ = run.vectors
    seconds: dict[str, list[float]] = {"rat": [], "id": [], "rectools": []}
    for number in range(arguments.rounds):
        seconds["rat"].append(rat_seconds(run))
        seconds["id"].append(id_seconds(run))
        with tempfile.TemporaryDirectory() as folder:
            split, preset = run.data.split, run.preset
            _, history = rectools_scorer(workshop.peer_python, split, preset, Path(folder))
        seconds["rectools"].append(history[0]["seconds"])
        print(number, {name: round(values[-1], 1) for name, values in seconds.items()})
    faster = {
        name: median(t / o for t, o in zip(seconds["rectools"], seconds[name], strict=True))
        for name in ("rat", "id")
    }
    lines = {
        "rat": "an epoch of RecTools' SASRec over one of RAT, same shape, loss and batch",
        "id": "an epoch of RecTools' SASRec over one of our ID-only SASRec",
    }
    print(
        write_report(
            "epochs",
            f"seconds an epoch on {facts.name}, softmax over {facts.items} items",
            arguments.rounds,
            [
                must_show(lines[name], round(ratio, 2), f">= {LEAST}", ratio >= LEAST)
                for name, ratio in faster.items()
            ],
            folder=arguments.results,
            threads=torch.get_num_threads(),
            omp_num_threads=os.environ.get("OMP_NUM_THREADS"),
            srs=run.preset.srs.model_dump(mode="json"),
            seconds={name: [round(one, 2) for one in each] for name, each in seconds.items()},
            medians={name: round(median(each), 2) for name, each in seconds.items()},
        )
    )


def rat_seconds(run: Run) -> float:
    """Return how long one epoch of RAT takes, validation included."""
    epochs: list[Epoch] = []
    model = adapted_model(run.preset, run.projected(), run.seen)
    with tempfile.TemporaryDirectory() as folder:
        train_rat(model, None, run.data.split, run.preset, Path(folder), epochs.append)
    return epochs[0].seconds


def id_seconds(run: Run) -> float:
    """Return how long one epoch of the ID-only SRS takes, validation included."""
    epochs: list[Epoch] = []
    model = collaborative_model(run.preset, run.data.facts.items)
    with tempfile.TemporaryDirectory() as folder:
        train_collaborative(model, run.data.split, run.preset, Path(folder), epochs.append)
    return epochs[0].seconds


if __name__ == "__main__":
    main()
