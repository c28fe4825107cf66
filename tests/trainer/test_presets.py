"""Presets and overrides."""

import pytest

from llmemb.errors import SettingsError
from trainer.presets import PRESETS, build_preset


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_valid(name: str) -> None:
    assert build_preset(name).model_dump()


def test_the_paper_preset_is_the_release() -> None:
    paper = build_preset("paper")
    assert (paper.scft.lora_rank, paper.scft.lora_alpha, paper.scft.lora_dropout) == (8, 32, 0.1)
    assert (paper.scft.loss, paper.scft.temperature, paper.scft.drop) == ("soft", 3.0, 0.4)
    assert (paper.projection.kind, paper.projection.dimensions) == ("pca", 1536)
    assert (paper.rat.adapter_hidden, paper.rat.loss, paper.rat.patience) == (768, "bce", 20)
    assert (paper.rat.alignment_weight, paper.rat.alignment_temperature) == (0.01, 2.0)
    assert not paper.rat.id_residual


def test_overrides_take_toml_values_and_bare_words() -> None:
    preset = build_preset(
        "quick",
        [
            "seed=7",
            "scft.epochs=0.5",
            "rat.loss=bce",
            'prompt.exclude=["year"]',
            "rat.adapter_hidden=none",
        ],
    )
    assert (preset.seed, preset.scft.epochs, preset.rat.loss) == (7, 0.5, "bce")
    assert preset.prompt.exclude == ("year",)
    assert preset.rat.adapter_hidden is None


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("scft.epoch=1", r"scft\.epoch: Extra inputs"),
        ("nonsense.key=1", "nonsense: Extra inputs"),
        ("scft.epochs=-1", r"scft\.epochs: Input should be greater than or equal to 0"),
        ("scft.loss=hinge", r"scft\.loss: Input should be 'infonce', 'soft' or 'catalogue'"),
        ("scft.epochs", "write section.key=value"),
        ("scft=1", "write section.key=value"),
        ("seed=x", "seed: Input should be a valid integer"),
    ],
)
def test_a_wrong_override_is_named(override: str, reason: str) -> None:
    with pytest.raises(SettingsError, match=reason):
        build_preset("quick", [override])


def test_an_unknown_preset_lists_the_known_ones() -> None:
    with pytest.raises(SettingsError, match="quick, default, paper"):
        build_preset("fast")
