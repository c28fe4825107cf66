"""A bundle's LLM in 8 bits: offered where it is close to the exact one, refused where it is not."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import make_tiny_llm, needs_vnni
from transformers import AutoTokenizer

from llmemb.base_model import BaseModel
from llmemb.bundle import Bundle, read_bundle
from llmemb.encoder import Encoder, EncoderSettings, load_base
from llmemb.errors import ModelError


@pytest.fixture
def bundle(tiny_bundle: Path) -> Bundle:
    return read_bundle(tiny_bundle)


@needs_vnni
def test_its_vectors_agree_with_the_exact_ones(bundle: Bundle) -> None:
    encoder = bundle.load_encoder(precision="int8")
    assert encoder.forward_pass == "fused int8"
    prompts = [bundle.manifest.prompt.render(item) for item in bundle.catalogue.attributes]
    found = torch.from_numpy(encoder.encode(prompts).astype(np.float32))
    exact = torch.from_numpy(bundle.llm_vectors.astype(np.float32))
    assert torch.cosine_similarity(found, exact).min() > 0.999


@needs_vnni
def test_a_bundle_that_8_bits_change_too_much_is_refused(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmemb.encoder.INT8_AGREES", 1.1)
    with pytest.raises(ModelError, match=r"cosine of .* less than 1\.1; leave the precision at"):
        bundle.load_encoder(precision="int8")


def test_a_model_without_such_a_pass_is_refused(tmp_path: Path) -> None:
    folder = make_tiny_llm(tmp_path, "qwen2")
    model = load_base(BaseModel("tiny", folder), torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    device = torch.device("cpu")
    with pytest.raises(ModelError, match="not for a Qwen2Model"):
        Encoder(model, tokenizer, EncoderSettings(), device, "", "int8")
