"""The gradient cache: a contrastive batch larger than memory, with the gradients of one that fits."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import make_tiny_llm
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from llmemb.base_model import find_base_model
from llmemb.encoder import EncoderSettings
from llmemb.interactions import Sequences
from llmemb.prompt import PromptTemplate
from trainer import lora
from trainer.presets import ScftSettings
from trainer.scft_loss import ViewsLoss
from trainer.views import PairsCollator

TEMPLATE = PromptTemplate(domain="film", fields=("title", "year"))
FILMS = [{"title": f"Story {i}", "year": i % 100, "plot": "alpha " * (i % 5)} for i in range(512)]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_llm(tmp_path_factory.mktemp("llm"))


@pytest.fixture(autouse=True)
def exact() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lora, "best_dtype", lambda _: torch.float32)
        yield


def gradients_and_memory(base: Path, pairs: int, cache: int | None) -> tuple[list[Tensor], int]:
    """Return what a batch of pairs gives the LoRA and the temperature, and the most memory it took, bytes."""
    torch.manual_seed(0)
    settings = ScftSettings(gradient_cache=cache)
    model = lora.model_with_lora(find_base_model(str(base)), EncoderSettings(), settings)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # it begins at zero, where dropout would not be seen
            torch.nn.init.normal_(parameter, std=0.05)
    nobody = Sequences(np.empty(0, np.int32), np.zeros(len(FILMS) + 1, np.int64))
    collate = PairsCollator(
        FILMS,
        TEMPLATE,
        model[0].tokenizer,
        EncoderSettings(),
        settings,
        seed=0,
        neighbours=nobody,
        groups=np.arange(len(FILMS)),
    )
    batch = collate([{"item": item, "visit": 0} for item in range(pairs)])
    views = [
        {key: batch[f"{view}_{key}"] for key in ("input_ids", "attention_mask")}
        for view in ("anchor", "positive")
    ]
    loss = ViewsLoss(model, settings).train()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        loss(views, batch["label"]).backward()
    events = profiled.profiler.kineto_results.events()
    held = np.cumsum([event.nbytes() for event in events if event.name() == "[memory]"])
    return [one.grad for one in loss.parameters() if one.grad is not None], int(held.max())


def test_512_pairs_take_the_memory_of_64_and_give_the_same_gradients(base: Path) -> None:
    whole, _ = gradients_and_memory(base, 512, cache=None)
    cached, held = gradients_and_memory(base, 512, cache=64)
    for expected, found in zip(whole, cached, strict=True):
        assert torch.allclose(found, expected, rtol=0, atol=1e-5)
    assert held <= gradients_and_memory(base, 64, cache=None)[1]
