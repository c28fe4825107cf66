"""The gradients of a contrastive batch, whole or by the gradient cache, and the memory that they take."""

from pathlib import Path

import numpy as np
import pytest
import torch
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


def gradients_and_memory(base: Path, pairs: int, cache: int | None) -> tuple[list[Tensor], int]:
    """Return what a batch of pairs gives the LoRA and the temperature, and the most bytes it took."""
    torch.manual_seed(0)
    settings = ScftSettings(gradient_cache=cache)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lora, "training_dtype", lambda _: torch.float32)
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
