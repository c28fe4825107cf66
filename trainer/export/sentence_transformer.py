"""A bundle's encoder as a folder of its own: base model and LoRA in one, for sentence-transformers."""

from pathlib import Path
from typing import Any

import torch
from tokenizers.processors import Sequence, TemplateProcessing

from llmemb.bundle import ENCODER, Bundle
from llmemb.encoder import merge_lora
from trainer.lora import load_transformer, with_pooling


def write_sentence_transformer(bundle: Bundle, folder: Path, base_model: str | None) -> None:
    """Write a folder whose ``SentenceTransformer(folder).encode(prompts)`` gives LLM vectors, float32.

    Raises:
        ModelError: the base model is not there, or is another one than trained with.
        BundleError: the LoRA does not fit it.
    """
    settings = bundle.manifest.encoder
    transformer = load_transformer(bundle.find_base(base_model), settings, dtype=torch.float32)
    transformer.model = merge_lora(transformer.model, bundle.path / ENCODER)
    transformer.tokenizer.padding_side = "right"  # as the service pads
    if settings.pooling == "eos":
        _end_with_eos(transformer.tokenizer)
    model = with_pooling(transformer, settings, torch.device("cpu"))
    model.save_pretrained(str(folder), create_model_card=False)


def _end_with_eos(tokenizer: Any) -> None:
    """Let the tokenizer write the token that is pooled, where it does not do so by itself."""
    end = tokenizer.eos_token or tokenizer.sep_token
    end_id = tokenizer.convert_tokens_to_ids(end)
    if tokenizer("")["input_ids"][-1:] == [end_id]:
        return
    backend = tokenizer.backend_tokenizer
    append = TemplateProcessing(single=f"$A {end}", special_tokens=[(end, end_id)])
    before = [backend.post_processor] if backend.post_processor else []
    backend.post_processor = Sequence([*before, append])
