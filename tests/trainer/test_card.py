"""The model card's head: what the Hugging Face Hub reads of it."""

from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from llmemb.bundle import BaseModelReference, Manifest, read_manifest
from trainer.card import model_card

METRICS = {"HR@10": 0.123456, "NDCG@10": 0.05}
REPORT = {
    protocol: dict.fromkeys(("all", "tail", "head"), METRICS)
    for protocol in ("full", "unseen", "sampled100")
}


@pytest.fixture
def manifest(tiny_bundle: Path) -> Manifest:
    metrics = {"llmemb": {**REPORT, "n_users": 9}, "popularity": REPORT}
    return read_manifest(tiny_bundle).model_copy(update={"metrics": metrics})


def test_the_hub_reads_what_was_measured(manifest: Manifest) -> None:
    card = ModelCard(model_card(manifest)).data
    assert card.library_name == "llmemb"
    assert "cold-start" in card.tags
    assert card.model_name == "llmemb-tiny"
    assert len(card.eval_results) == 6
    first = card.eval_results[0]
    assert (first.metric_type, first.metric_value) == ("HR@10", 0.1235)
    assert (first.dataset_name, first.dataset_split) == ("tiny", "test")


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("smollm2-135m-instruct", "HuggingFaceTB/SmolLM2-135M-Instruct"),
        ("Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B"),
        ("/home/me/models/mine", None),  # a folder of one machine is nobody else's
    ],
)
def test_the_hub_finds_the_base_model(manifest: Manifest, source: str, shown: str | None) -> None:
    reference = BaseModelReference(source=source, sha256="0")
    card = model_card(manifest.model_copy(update={"base_model": reference}))
    assert ModelCard(card).data.base_model == shown
