"""The rows of the quality report: what each trains, and how one row with one seed is measured."""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from quality_baselines import llm_initialised, over_vectors, word_vectors
from rectools_peer import rectools_scorer
from report import RESULTS
from rich.console import Console
from safetensors import safe_open
from safetensors.numpy import save_file

from llmemb.base_model import DEFAULT_BASE_MODEL, BaseModel, find_base_model
from llmemb.files import replacing_file
from trainer.cooccurrence import cooccurrence_scorer
from trainer.dataset import Dataset, read_dataset
from trainer.evaluate import Scorer, evaluation_report, popularity_scorer, ranks
from trainer.fit import read_history
from trainer.presets import PLACEMENT, Preset, build_preset
from trainer.progress import Progress
from trainer.stages import stage_key
from trainer.train import Run

BACKBONES = ("sasrec", "gru4rec", "bert4rec")
LOSSES = ("bce", "gbce", "sampled", "softmax")
SEEDS = 3
HELD_OUT, HELD_OUT_SEED = 0.1, 0  # of the items, for the rows on strictly cold items

Kind = Literal[
    "popularity", "cooccurrence", "id", "llminit", "tfidf", "tfidf-llm", "adapted", "rectools"
]


@dataclass(frozen=True)
class Row:
    """One line of the report.

    Attributes:
        kind: what is trained.
        overrides: settings that differ from the preset's.
        cold: whether a tenth of the items is held out of training.
        runs: seeds it is measured with: one where there is no chance in it, or where a run takes long.
    """

    name: str
    kind: Kind
    preset: str = "default"
    overrides: tuple[str, ...] = ()
    cold: bool = False
    runs: int = SEEDS

    def settings(self, seed: int) -> Preset:
        """Return what it is trained with; LLM stages are the same for all seeds."""
        return build_preset(self.preset, (*self.overrides, f"seed={seed}", "scft.seed=0"))


ABLATIONS: dict[str, tuple[str, ...]] = {
    "projection-pca": ("projection.kind=pca",),
    "no-id-residual": ("rat.id_residual=false",),
    "no-id-dropout": ("rat.id_dropout=0",),
    "mixture-of-experts": ("rat.experts=4",),
    "alignment-infonce": ("rat.alignment=infonce", "rat.alignment_weight=0.1"),
    "no-averaging": ("rat.averaged_epochs=0",),
    "no-logit-adjustment": ("rat.logit_adjustment=0",),
    "no-unit-items": ("srs.unit_items=false",),
    "no-repeat-bias": ("srs.repeat_bias=false",),
    "loss-bce": ("rat.loss=bce",),
}
PLAIN = ("srs.unit_items=false", "srs.repeat_bias=false")  # a backbone as it is published
# What two cores and 24 GB allow for: 47 steps on Amazon Beauty, where the release trains for 4,000.
PAPER_SCFT = ("scft.epochs=0.5", "scft.gradient_cache=16")
# What the paper's recipe lacks, one at a time, with the backbone that gains the least from it.
PAPER_WITH: dict[str, tuple[str, ...]] = {
    "whitening": ("projection.kind=whiten",),
    "id-residual": ("rat.id_residual=true", "rat.id_dropout=0.5"),
    "sampled-softmax": ("rat.loss=sampled", "rat.negatives=2048"),
}


def all_rows() -> Iterator[Row]:
    """Yield every row, cheapest first."""
    yield Row("popularity", "popularity", runs=1)
    yield Row("cooccurrence", "cooccurrence", runs=1)
    for loss in LOSSES:
        for backbone in BACKBONES:
            settings = (*PLAIN, f"srs.name={backbone}", f"collaborative.loss={loss}")
            yield Row(f"id/{backbone}/{loss}", "id", overrides=settings)
    yield Row("id-levers/sasrec", "id", overrides=("collaborative.logit_adjustment=0.8",))
    yield Row("tfidf/sasrec", "tfidf", overrides=("scft.epochs=0",))
    yield Row("raw/sasrec", "adapted", overrides=("scft.epochs=0",))
    yield Row("tfidf-raw/sasrec", "tfidf-llm", overrides=("scft.epochs=0",))
    yield Row("llminit/sasrec", "llminit", overrides=(*PLAIN, "scft.epochs=0"))
    softmax = (*PLAIN, "collaborative.loss=softmax")
    yield Row("rectools/sasrec", "rectools", overrides=softmax, runs=1)
    for backbone in BACKBONES:
        yield Row(f"default/{backbone}", "adapted", overrides=(f"srs.name={backbone}",))
    yield Row("tfidf-default/sasrec", "tfidf-llm")
    yield Row("cold/id/sasrec", "id", cold=True)
    yield Row("cold/default/sasrec", "adapted", cold=True)
    for lever, settings in ABLATIONS.items():
        yield Row(f"ablation/{lever}", "adapted", overrides=settings)
    for backbone in BACKBONES:
        settings = (f"srs.name={backbone}",)
        yield Row(f"paper-id/{backbone}", "id", "paper", settings)
        yield Row(f"paper/{backbone}", "adapted", "paper", (*settings, *PAPER_SCFT))
    for lever, settings in PAPER_WITH.items():
        settings = ("srs.name=gru4rec", *PAPER_SCFT, *settings)
        yield Row(f"paper-with/{lever}", "adapted", "paper", settings, runs=1)


@dataclass(frozen=True)
class Measured:
    """One row with one seed.

    Attributes:
        ranks: of every test user's target in full ranking, uint8 ``[users]``; 255: that or worse.
        report: as ``llmemb evaluate --json`` gives it.
        epochs: trained.
        train_seconds: of those epochs, each taken as the median one, validation included (but the
            peer's); LLM stages are not.
    """

    ranks: NDArray[np.uint8]
    report: dict[str, Any]
    epochs: int
    train_seconds: float


Rows = dict[str, dict[int, Measured]]
"""What was measured: by the row's name, then by seed."""


@dataclass(frozen=True)
class Workshop:
    """Measures rows.

    Attributes:
        work: for the stages of training.
        kept: for what was measured: small, and enough to write the report without training again.
        peer_python: of the environment that RecTools lives in.
    """

    data: Dataset
    base: BaseModel
    work: Path
    kept: Path
    progress: Progress
    peer_python: Path

    def rows(self) -> Rows:
        """Return all that was measured so far."""
        rows: Rows = {}
        for row in all_rows():
            kept = {seed: self.find(row, seed) for seed in range(row.runs)}
            if seeds := {seed: one for seed, one in kept.items() if one}:
                rows[row.name] = seeds
        return rows

    def find(self, row: Row, seed: int) -> Measured | None:
        """Return what a row was measured to be with one seed; ``None``: it was not, with these settings."""
        path = self._path(row, seed)
        if not path.exists():
            return None
        with safe_open(path, "numpy") as file:
            facts = json.loads(file.metadata()["measured"])
            if facts.pop("key") != self.key(row, seed):
                return None
            return Measured(file.get_tensor("ranks"), **facts)

    def measure(self, row: Row, seed: int) -> None:
        """Train and rank a row with one seed, unless that is done."""
        if self.find(row, seed):
            return
        run, key = self.run(row, seed), self.key(row, seed)
        folder = self.work / f"row-{row.kind}-{key[:16]}"
        folder.mkdir(exist_ok=True)
        scorer, history = self._train(row, run, folder)
        found = ranks(scorer, run.data.split, "test")
        facts = {
            "report": evaluation_report(found, run.data.split, "test"),
            "epochs": len(history),
            "train_seconds": round(_seconds(history), 1),
        }
        path = self._path(row, seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing_file(path) as aside:
            metadata = {"measured": json.dumps({"key": key, **facts})}
            save_file({"ranks": np.minimum(found.full, 255).astype(np.uint8)}, aside, metadata)

    def run(self, row: Row, seed: int) -> Run:
        """Return the training run of a row."""
        return Run(self._data(row), self.base, row.settings(seed), self.work, self.progress)

    def key(self, row: Row, seed: int) -> str:
        """Return the hash of all that decides what a row is measured to be."""
        settings = row.settings(seed).model_dump(mode="json", exclude={"scft": set(PLACEMENT)})
        settings["base"] = self.base.sha256
        data = self._data(row).facts.fingerprint
        return stage_key({"row": row.kind, "data": data, "settings": settings})

    def _data(self, row: Row) -> Dataset:
        return held_out(self.data) if row.cold else self.data

    def _path(self, row: Row, seed: int) -> Path:
        return self.kept / row.name.replace("/", "-") / f"{seed}.safetensors"

    def _train(self, row: Row, run: Run, folder: Path) -> tuple[Scorer, list[dict[str, Any]]]:
        if row.kind == "popularity":
            return popularity_scorer(run.data.split), []
        if row.kind == "cooccurrence":
            return cooccurrence_scorer(run.data.split), []
        if row.kind == "id":
            return run.trained_collaborative().scorer(), read_history(run.collaborative[0])
        if row.kind == "adapted":
            return run.trained_adapted().scorer(), read_history(run.rat[0])
        if row.kind == "rectools":
            return rectools_scorer(self.peer_python, run.data.split, run.preset, folder)
        if row.kind == "llminit":
            return llm_initialised(run, folder), read_history(folder)
        words = word_vectors(run)
        vectors = np.hstack([run.projected(), words]) if row.kind == "tfidf-llm" else words
        return over_vectors(vectors, run, folder), read_history(folder)


def workshop_arguments(description: str) -> argparse.ArgumentParser:
    """Return a parser of what :func:`open_workshop` takes, for a script to add its own to."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("data", type=Path, help="prepared data (`llmemb data prepare`)")
    parser.add_argument("--base-model", default=DEFAULT_BASE_MODEL, help="the LLM")
    parser.add_argument("--work", type=Path, help="where stages are kept (<data>.quality)")
    parser.add_argument(
        "--rectools", type=Path, default=Path(".venv-rectools/bin/python"), help="its Python"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON")
    return parser


def open_workshop(arguments: argparse.Namespace) -> Workshop:
    """Read the data and find the LLM.

    Raises:
        DataError: there is no prepared data.
        ModelError: there is no such LLM.
    """
    data = read_dataset(arguments.data)
    return Workshop(
        data,
        find_base_model(arguments.base_model),
        arguments.work or arguments.data.with_name(f"{arguments.data.name}.quality"),
        arguments.results / f"quality-{data.facts.name}",
        Progress(Console(stderr=True)),
        arguments.rectools,
    )


def held_out(data: Dataset) -> Dataset:
    """Return the data with a tenth of the items held out of training."""
    fingerprint = f"{data.facts.fingerprint} without {HELD_OUT}, seed {HELD_OUT_SEED}"
    return replace(
        data,
        split=data.split.holding_out(HELD_OUT, HELD_OUT_SEED),
        facts=data.facts.model_copy(update={"fingerprint": fingerprint}),
    )


def _seconds(history: list[dict[str, Any]]) -> float:
    # The median: a machine that did something else for a while is not the model's slowness.
    return len(history) * median(epoch["seconds"] for epoch in history) if history else 0.0
