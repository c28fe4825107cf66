"""``llmemb train``: scft -> vectors -> collaborative -> rat -> evaluate -> bundle, each resumable."""

import json
import shutil
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file, save_file

from llmemb.base_model import BaseModel
from llmemb.bundle import (
    ENCODER,
    PLACES,
    BaseModelReference,
    Manifest,
    check_replaceable,
    encoder_fingerprint,
    read_bundle,
    write_bundle,
)
from llmemb.encoder import load_encoder
from llmemb.files import (
    json_bytes,
    replacing_directory,
    replacing_file,
    sha256_of,
    sweep_leftovers,
)
from llmemb.projection import Projection, fit_projection
from llmemb.prompt import PromptTemplate, excluded_by_default, sampled, shared_first
from trainer import processes
from trainer.card import model_card
from trainer.dataset import Dataset
from trainer.evaluate import evaluation_report, popularity_scorer, ranks
from trainer.fit import CHECKPOINT, Recommender, read_history
from trainer.item_tables import AdaptedTable, IdTable
from trainer.places import catalogue_places
from trainer.presets import PLACEMENT, Preset
from trainer.progress import Progress
from trainer.rat import adapted_model, collaborative_model, train_collaborative, train_rat
from trainer.stages import only_run, run_stage, working_folder
from trainer.steps import read_losses
from trainer.training_report import write_training_report
from trainer.vectors import embed_catalogue

LIBRARIES = ("numpy", "peft", "sentence-transformers", "torch", "transformers")
MODEL, VECTORS, METRICS = "model.safetensors", "vectors.safetensors", "metrics.json"
REPORT = "report.html"


def train(
    data: Dataset, base: BaseModel, preset: Preset, out: Path, progress: Progress
) -> Manifest | None:
    """Run every stage that is not done yet, write the bundle and a report of it; return its manifest.

    The working folder ``<out>.work`` lies beside the bundle and holds ``report.html``. Killed at any
    point and started again with the same arguments, a run ends with the same bundle as an
    undisturbed one.

    Several processes (``trainer.processes``) fine-tune the LLM and embed the catalogue together. Then the
    first goes on; for the others this ends with no manifest.

    Raises:
        LLMEmbError: the base model cannot be used, ``out`` holds something else than a bundle, or
            another run writes to the same place.
    """
    out = out.resolve()
    check_replaceable(out)
    work = working_folder(out)
    torch.use_deterministic_algorithms(True, warn_only=True)
    with only_run(work):
        run = Run(data, base, preset, work, progress)
        _ = run.vectors
        if not processes.go_on_alone():
            return None
        sweep_leftovers(out)
        manifest = run.bundle(out)
        write_training_report(read_bundle(out), work / REPORT)
        return manifest


def prompt_template(data: Dataset, preset: Preset) -> PromptTemplate:
    """Return the template of a data set: its attributes in order, some left out."""
    settings, catalogue = preset.prompt, data.catalogue
    excluded = (*excluded_by_default(catalogue), *settings.exclude)
    exclude = tuple(name for name in excluded if name not in settings.include)
    ordered = shared_first(catalogue, exclude) if settings.shared_first else catalogue.fields()
    return PromptTemplate(
        domain=data.domain,
        fields=tuple(ordered),
        exclude=exclude,
        value_chars=settings.value_chars,
    )


class Run:
    """One training run: a property a stage, each running what it needs first.

    A stage's property is its folder and its key. Runs with other settings may share ``work``: what
    they have in common is made once.
    """

    def __init__(
        self, data: Dataset, base: BaseModel, preset: Preset, work: Path, progress: Progress
    ) -> None:
        self.data = data
        self.base = base
        self.preset = preset
        self.work = work
        self.progress = progress
        self.template = prompt_template(data, preset)
        self.seen: NDArray[np.bool_] = data.split.popularity > 0

    @cached_property
    def scft(self) -> tuple[Path, str]:
        """The fine-tuned encoder."""

        def produce(folder: Path) -> None:
            # Slow to import, of no use once the stage is done.
            from trainer.lora import check_four_bits
            from trainer.scft import train_scft

            check_four_bits(self.preset.scft)
            catalogue = self.preset.scft.loss == "catalogue" and self.preset.scft.epochs > 0
            untuned = self.untuned().llm_vectors[self.seen] if catalogue else None
            with self.progress.steps("scft") as report:
                train_scft(
                    [self.data.catalogue.attributes[i] for i in np.flatnonzero(self.seen)],
                    self.template,
                    self.base,
                    self.preset.encoder,
                    self.preset.scft,
                    seed=self.preset.scft_seed,
                    folder=folder,
                    sequences=self.data.split.train.renumbered(np.cumsum(self.seen) - 1),
                    untuned=untuned,
                    report=report,
                )

        inputs: dict[str, Any] = {
            "data": self.data.facts.fingerprint,
            "base": self.base.sha256,
            "prompt": self.template.model_dump(mode="json"),
            "encoder": self.preset.encoder.model_dump(mode="json"),
        }
        if self.preset.scft.epochs:
            # What only decides where the work is done may change when a run is resumed.
            inputs["scft"] = self.preset.scft.model_dump(mode="json", exclude=set(PLACEMENT))
            inputs["seed"] = self.preset.scft_seed
        return run_stage(self.work, "scft", inputs, produce)

    def untuned(self) -> "Run":
        """Return the same run without SCFT."""
        scft = self.preset.scft.model_copy(update={"epochs": 0})
        preset = self.preset.model_copy(update={"scft": scft})
        return Run(self.data, self.base, preset, self.work, self.progress)

    @cached_property
    def vectors(self) -> tuple[Path, str]:
        """LLM vectors of the whole catalogue."""
        scft, key = self.scft

        def produce(folder: Path) -> None:
            prompts = [self.template.render(item) for item in self.data.catalogue.attributes]
            with self.progress.items("vectors", len(prompts)) as advance:
                vectors = embed_catalogue(
                    prompts,
                    lambda: load_encoder(
                        scft / ENCODER,
                        self.base,
                        self.preset.encoder,
                        sample=sampled(prompts),
                    ),
                    folder,
                    advance,
                )
            if processes.first():
                with replacing_file(folder / VECTORS) as aside:
                    save_arrays({"vectors": vectors}, aside)

        return run_stage(self.work, "vectors", {"scft": key}, produce)

    @cached_property
    def collaborative(self) -> tuple[Path, str]:
        """The ID-only SRS."""

        def produce(folder: Path) -> None:
            model = collaborative_model(self.preset, self.data.facts.items)
            with self.progress.epochs("collaborative") as report:
                train_collaborative(model, self.data.split, self.preset, folder, report)
            with replacing_file(folder / MODEL) as aside:
                save_file(model.state_dict(), aside)
            (folder / CHECKPOINT).unlink(missing_ok=True)

        inputs = {
            "data": self.data.facts.fingerprint,
            "srs": self.preset.srs.model_dump(mode="json"),
            "collaborative": self.preset.collaborative.model_dump(mode="json"),
            "seed": self.preset.seed,
        }
        return run_stage(self.work, "collaborative", inputs, produce)

    @cached_property
    def rat(self) -> tuple[Path, str]:
        """Adapter and backbone."""
        _, vectors_key = self.vectors
        inputs = {
            "vectors": vectors_key,
            "projection": self.preset.projection.model_dump(mode="json"),
            "srs": self.preset.srs.model_dump(mode="json"),
            "rat": self.preset.rat.model_dump(mode="json"),
            "seed": self.preset.seed,
        }
        aligned = self.preset.rat.alignment_weight > 0
        if aligned:
            inputs["collaborative"] = self.collaborative[1]

        def produce(folder: Path) -> None:
            teacher = load_file(self.collaborative[0] / MODEL)["table.vectors"] if aligned else None
            model = adapted_model(self.preset, self.projected(), self.seen)
            with self.progress.epochs("rat") as report:
                train_rat(model, teacher, self.data.split, self.preset, folder, report)
            with replacing_file(folder / MODEL) as aside:
                save_file(model.state_dict(), aside)
            (folder / CHECKPOINT).unlink(missing_ok=True)

        return run_stage(self.work, "rat", inputs, produce)

    @cached_property
    def evaluation(self) -> tuple[Path, str]:
        """Test metrics of popularity, the ID-only SRS and the result."""
        inputs = {"rat": self.rat[1], "collaborative": self.collaborative[1]}

        def produce(folder: Path) -> None:
            split = self.data.split
            scorers = {
                "popularity": popularity_scorer(split),
                f"id/{self.preset.srs.name}": self.trained_collaborative().scorer(),
                "llmemb": self.trained_adapted().scorer(),
            }
            reports = {
                name: evaluation_report(ranks(scorer, split, "test"), split, "test")
                for name, scorer in scorers.items()
            }
            with replacing_file(folder / METRICS) as aside:
                aside.write_bytes(json_bytes(reports))
            self.progress.evaluated(reports["llmemb"])

        return run_stage(self.work, "evaluate", inputs, produce)

    @cached_property
    def places(self) -> tuple[Path, str]:
        """The catalogue as a map."""

        def produce(folder: Path) -> None:
            vectors = self.trained_adapted().item_vectors().numpy()
            with self.progress.items("map", len(vectors)) as advance:
                places = catalogue_places(vectors, self.preset.seed)
                advance(len(vectors))
            with replacing_file(folder / PLACES) as aside:
                save_arrays({"places": places}, aside)

        return run_stage(self.work, "map", {"rat": self.rat[1]}, produce)

    def bundle(self, out: Path) -> Manifest:
        """Write the bundle to ``out`` and return its manifest."""
        metrics, _ = self.evaluation
        places, _ = self.places
        encoder = self.scft[0] / ENCODER
        model = self.trained_adapted()
        lora = sha256_of(encoder / "adapter_model.safetensors")
        fitted = {"collaborative": self.collaborative, "rat": self.rat}
        manifest = Manifest(
            base_model=BaseModelReference(source=self.base.source, sha256=self.base.sha256),
            prompt=self.template,
            encoder=self.preset.encoder,
            encoder_fingerprint=encoder_fingerprint(
                self.base.sha256, lora, self.template, self.preset.encoder
            ),
            llm_dimensions=self.llm_vectors.shape[1],
            adapter=model.table.adapter.settings,
            srs=self.preset.srs,
            data=self.data.facts,
            settings=self.preset.model_dump(mode="json"),
            metrics=json.loads((metrics / METRICS).read_bytes()),
            history={
                "scft": read_losses(self.scft[0]),
                **{
                    stage: [
                        # Not how long it took: the same training gives the same bundle.
                        {"loss": epoch["loss"], "ndcg": epoch["ndcg"]}
                        for epoch in read_history(folder)
                    ]
                    for stage, (folder, _) in fitted.items()
                },
            },
            libraries=_installed(LIBRARIES),
        )
        with replacing_directory(out) as folder:
            shutil.copytree(encoder, folder / ENCODER)
            return write_bundle(
                folder,
                manifest,
                catalogue=self.data.catalogue,
                popularity=self.data.split.popularity,
                projection=self.projection,
                adapter=model.table.adapter,
                backbone=model.backbone,
                llm_vectors=self.llm_vectors,
                item_vectors=model.item_vectors().numpy(),
                residuals=model.table.residuals(),
                places=load_arrays(places / PLACES)["places"],
                card=model_card(manifest),
            )

    @cached_property
    def llm_vectors(self) -> NDArray[np.float16]:
        """float16 ``[items, llm]``."""
        vectors: NDArray[np.float16] = load_arrays(self.vectors[0] / VECTORS)["vectors"]
        return vectors

    @cached_property
    def projection(self) -> Projection:
        """The projection, fitted on items with training interactions."""
        settings = self.preset.projection
        return fit_projection(self.llm_vectors[self.seen], settings.dimensions, settings.kind)

    def projected(self) -> NDArray[np.float32]:
        """Return projected LLM vectors, float32 ``[items, projected]``."""
        return self.projection(self.llm_vectors)

    def trained_collaborative(self) -> Recommender[IdTable]:
        """Return the ID-only SRS with its trained weights."""
        model = collaborative_model(self.preset, self.data.facts.items)
        model.load_state_dict(load_file(self.collaborative[0] / MODEL))
        return model

    def trained_adapted(self) -> Recommender[AdaptedTable]:
        """Return adapter and backbone with their trained weights."""
        model = adapted_model(self.preset, self.projected(), self.seen)
        model.load_state_dict(load_file(self.rat[0] / MODEL))
        return model


def _installed(names: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
