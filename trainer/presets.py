"""Presets: every setting of a training run, its default and what it does; ``--set section.key=value``."""

import tomllib
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from llmemb.encoder import EncoderSettings
from llmemb.errors import SettingsError
from llmemb.projection import Kind
from llmemb.srs import BackboneSettings
from trainer.next_item import LossName


class Section(BaseModel):
    """A group of settings; unknown names are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class PromptSettings(Section):
    """Which attributes the LLM reads."""

    include: tuple[str, ...] = ()  # of those left out by default (popularity, identifiers)
    exclude: tuple[str, ...] = ()  # further attributes to leave out
    value_chars: int = Field(default=200, ge=1)  # a longer value is cut there
    # What many items have in common comes first: a catalogue is then embedded about 1.7 times as fast.
    shared_first: bool = True


class ScftSettings(Section):
    """Supervised contrastive fine-tuning of the LLM (paper, section 3.2)."""

    seed: int | None = Field(default=None, ge=0)  # None: the run's
    epochs: float = Field(default=4, ge=0)  # visits of each training item; 0: the LLM as it is
    batch_size: int = Field(default=64, ge=2)  # items in one contrastive batch
    accumulation: int = Field(default=1, ge=1)  # batches to one optimiser step
    learning_rate: float = Field(default=2e-4, gt=0)
    warmup: float = Field(default=0.1, ge=0, le=1)  # share of the steps
    drop: float = Field(default=0.4, ge=0, lt=1)  # share of attributes left out of a view
    cooccurrence: float = Field(default=0.0, ge=0, le=1)  # share of positives: items used nearby
    # Pairs of views within a batch (soft: the paper's); catalogue: a view against every item.
    loss: Literal["infonce", "soft", "catalogue"] = "infonce"
    temperature: float = Field(default=0.05, gt=0)  # starting value; learnt
    lora_rank: int = Field(default=8, ge=1)
    lora_alpha: int = Field(default=32, ge=1)
    lora_dropout: float = Field(default=0.0, ge=0, lt=1)
    top_layers: float = Field(default=1.0, gt=0, le=1)  # share of the LLM's layers, from the top
    gradient_checkpointing: bool = False  # less memory, about a third slower
    # Items whose activations a process keeps at a time, computed twice; None: its whole batch's.
    gradient_cache: int | None = Field(default=None, ge=1)
    shard: bool = False  # the frozen LLM is split over the processes (FSDP), not held by each
    qlora: bool = False  # the frozen LLM is held in 4 bits (bitsandbytes; a CUDA GPU)
    checkpoint_steps: int = Field(default=50, ge=1)  # steps between resumable checkpoints


PLACEMENT = ("gradient_cache", "shard")  # of ``ScftSettings``: they change no result


class ProjectionSettings(Section):
    """LLM vectors to the adapter's input."""

    kind: Kind = "whiten"
    dimensions: int = Field(default=256, ge=1)


class FitSettings(Section):
    """Training of a backbone with its item vectors."""

    loss: LossName = "softmax"  # over all items; sampled, gbce: shared negatives; bce: one each
    negatives: int = Field(default=1024, ge=1)  # uniform, shared by a batch
    batch_size: int = Field(default=32, ge=1)  # sequences
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    epochs: int = Field(default=200, ge=1)  # at most
    patience: int = Field(default=10, ge=1)  # epochs without a better validation NDCG@10
    averaged_epochs: float = Field(default=3.0, ge=0)  # weights kept are a moving average; 0: none
    # Share of an item's log popularity added to its score while training: what popularity explains is
    # then not learnt into the vectors, which lifts the tail (Menon et al., ICLR 2021, arXiv 2007.07314).
    logit_adjustment: float = Field(default=0.0, ge=0, le=1)


class RatSettings(FitSettings):
    """Recommendation adaptation training (paper, section 3.3)."""

    adapter_hidden: int | None = Field(default=None, ge=1)  # None: one linear layer
    experts: int = Field(default=1, ge=1)  # adapters in a mixture
    id_residual: bool = True  # items seen in training add a learnt vector to the adapted one
    id_dropout: float = Field(default=0.2, ge=0, lt=1)  # share of residuals left out of a step
    alignment: Literal["infonce", "soft"] = "infonce"
    alignment_weight: float = Field(default=0.1, ge=0)
    alignment_temperature: float = Field(default=0.1, gt=0)  # fixed


class Preset(Section):
    """All settings of ``llmemb train``."""

    seed: int = Field(default=0, ge=0)
    prompt: PromptSettings = PromptSettings()
    encoder: EncoderSettings = EncoderSettings()
    scft: ScftSettings = ScftSettings()
    projection: ProjectionSettings = ProjectionSettings()
    srs: BackboneSettings = BackboneSettings()
    collaborative: FitSettings = FitSettings()
    rat: RatSettings = RatSettings()

    @property
    def scft_seed(self) -> int:
        """Seed of SCFT."""
        return self.seed if self.scft.seed is None else self.scft.seed


PRESETS: dict[str, dict[str, Any]] = {
    # Every stage for real, sized so that MovieLens-100K trains in minutes on two cores.
    "quick": {
        "encoder": {"max_tokens": 128},
        "scft": {
            "epochs": 1,
            "learning_rate": 1e-3,
            "temperature": 0.02,
            "top_layers": 0.34,
            "checkpoint_steps": 10,
        },
        "projection": {"dimensions": 128},
        "srs": {"width": 64, "max_length": 100},
        "collaborative": {"epochs": 40},
        "rat": {"epochs": 50},
    },
    # Chosen on the validation split of Amazon Beauty, as far as it has been searched.
    "default": {
        "encoder": {"depth": 0.2},
        "scft": {
            "epochs": 5,
            "batch_size": 128,
            "learning_rate": 1e-3,
            "drop": 0.0,
            "cooccurrence": 1.0,
            "loss": "catalogue",
            "lora_rank": 32,
            "lora_alpha": 64,
        },
        "projection": {"dimensions": 512},
        "srs": {
            "width": 128,
            "blocks": 1,
            "dropout": 0.4,
            "unit_items": True,
            "repeat_bias": True,
        },
        "collaborative": {
            "loss": "sampled",
            "negatives": 2048,
            "batch_size": 128,
            "epochs": 60,
            "patience": 6,
        },
        "rat": {
            "loss": "sampled",
            "negatives": 2048,
            "batch_size": 128,
            "epochs": 60,
            "patience": 6,
            "logit_adjustment": 0.8,
            "id_dropout": 0.5,
            "alignment_weight": 0.0,
        },
    },
    # The release's recipe without its bugs; where the two differ, the paper's own numbers.
    "paper": {
        "prompt": {"value_chars": 100, "shared_first": False},
        "scft": {
            "batch_size": 128,
            "loss": "soft",
            "temperature": 3.0,
            "lora_dropout": 0.1,
        },
        "projection": {"kind": "pca", "dimensions": 1536},
        "srs": {"width": 128, "blocks": 2, "heads": 1, "dropout": 0.5, "max_length": 200},
        "collaborative": {
            "loss": "bce",
            "batch_size": 128,
            "patience": 20,
            "averaged_epochs": 0,
        },
        "rat": {
            "loss": "bce",
            "batch_size": 128,
            "patience": 20,
            "averaged_epochs": 0,
            "adapter_hidden": 768,
            "id_residual": False,
            "id_dropout": 0.0,
            "alignment": "soft",
            "alignment_weight": 0.01,
            "alignment_temperature": 2.0,
        },
    },
}


def build_preset(name: str, overrides: Sequence[str] = (), **sections: dict[str, Any]) -> Preset:
    """Return a preset with overrides applied.

    Args:
        name: a key of ``PRESETS``.
        overrides: ``section.key=value`` (or ``seed=value``); values in TOML, bare words are text.
        sections: values set by the caller, which overrides may override.

    Raises:
        SettingsError: an unknown preset or setting, or a value out of its range.
    """
    if name not in PRESETS:
        raise SettingsError(f"there is no preset {name!r}; choose one of {', '.join(PRESETS)}")
    values: dict[str, Any] = {section: dict(keys) for section, keys in PRESETS[name].items()}
    for section, keys in sections.items():
        values.setdefault(section, {}).update(keys)
    for override in overrides:
        path, equals, text = override.partition("=")
        section, _, key = path.strip().partition(".")
        if not equals or (not key and section != "seed"):
            raise SettingsError(f"--set {override}: write section.key=value, as in scft.epochs=2")
        if key:
            values.setdefault(section, {})[key] = _toml_value(text)
        else:
            values[section] = _toml_value(text)
    try:
        return Preset.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise SettingsError(
            f"setting {where}: {first['msg']} (given: {first['input']!r})"
        ) from None


def _toml_value(text: str) -> Any:
    if text.strip().lower() in ("none", "null"):
        return None
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text.strip()
