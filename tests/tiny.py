"""Tiny, randomly initialised models of the families that LLMEmb supports, saved as real folders."""

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    AutoModel,
    BertConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from llmemb.device import best_dtype

CORPUS = [
    "The film item has the following attributes: title is Toy Story; year is 1995; genres is Comedy",
    "The item has no known attributes. alpha beta gamma delta 0 1 2 3 4 5 6 7 8 9 drama action",
]
SHAPE = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}
CONFIGS = {
    "llama": (LlamaConfig, {"num_key_value_heads": 2}),
    "qwen2": (Qwen2Config, {"num_key_value_heads": 2}),
    "mistral": (MistralConfig, {"num_key_value_heads": 2}),
    "bert": (BertConfig, {}),
}

needs_bfloat16 = pytest.mark.skipif(
    best_dtype(torch.device("cpu")) != torch.bfloat16,
    reason="this CPU does not compute in bfloat16",
)
needs_vnni = pytest.mark.skipif(
    not torch.cpu._is_vnni_supported(), reason="this CPU multiplies no 8-bit integers (VNNI)"
)


def make_tiny_llm(folder: Path, family: str = "llama", padding_side: str = "right") -> Path:
    """Write config, tokenizer and safetensors weights of a tiny model into ``folder``."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<unk>", "<s>", "</s>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        padding_side=padding_side,
        # Chat models have one; prompts are read without it, whoever reads them.
        chat_template="{% for m in messages %}<s>{{ m['role'] }}: {{ m['content'] }}</s>{% endfor %}",
    )
    torch.manual_seed(7)
    kind, extra = CONFIGS[family]
    config = kind(
        vocab_size=len(fast),
        max_position_embeddings=512,
        pad_token_id=fast.pad_token_id,
        **SHAPE,
        **extra,
    )
    AutoModel.from_config(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder
