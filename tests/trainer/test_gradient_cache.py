"""The gradient cache: a contrastive batch larger than memory, with the gradients of one that fits."""

from pathlib import Path

import pytest
import torch
from contrastive_gradients import gradients_and_memory
from tiny import make_tiny_llm


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_llm(tmp_path_factory.mktemp("llm"))


def test_512_pairs_take_the_memory_of_64_and_give_the_same_gradients(base: Path) -> None:
    whole, _ = gradients_and_memory(base, 512, cache=None)
    cached, held = gradients_and_memory(base, 512, cache=64)
    for expected, found in zip(whole, cached, strict=True):
        assert torch.allclose(found, expected, rtol=0, atol=1e-5)
    assert held <= gradients_and_memory(base, 64, cache=None)[1]
