"""The LLM with LoRA weights as a sentence-transformers model: how it is made and how it is written."""

import json
import math
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from safetensors import SafetensorError
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers.pytorch_utils import Conv1D

from llmemb.base_model import BaseModel
from llmemb.device import best_device, best_dtype
from llmemb.dropout import Dropout
from llmemb.encoder import (
    EncoderSettings,
    base_config,
    check_max_tokens,
    quiet_loading,
)
from llmemb.errors import ModelError, SettingsError
from llmemb.files import json_bytes
from trainer import processes
from trainer.presets import ScftSettings

ADAPTER = "default"  # PEFT's name for the one there is
LAYERS = "num_hidden_layers"  # transformers' name for it
POOLING_MODES = {"mean": "mean", "last": "lasttoken", "eos": "lasttoken"}


def training_dtype(device: torch.device) -> torch.dtype:
    """Return the number format that a training step is fastest in.

    On x86 bfloat16 wants AMX: with AVX-512's instructions for it alone, the matrix products of a
    training step are slower than in float32 (90 against 150 GFLOP/s on a core of a Xeon).
    """
    x86 = torch.cpu._is_avx512_supported()  # what x86 has at least, where bfloat16 is offered
    if device.type == "cpu" and x86 and not torch.cpu._is_amx_tile_supported():
        return torch.float32
    return best_dtype(device)


def model_with_lora(
    base: BaseModel, encoder: EncoderSettings, settings: ScftSettings
) -> SentenceTransformer:
    """Return the LLM with fresh LoRA weights, which change nothing yet, and pooling.

    Raises:
        ModelError: the base model cannot be loaded or has no layers for LoRA.
        SettingsError: see :func:`check_four_bits`.
    """
    check_four_bits(settings)
    device = best_device()
    arguments: dict[str, Any] = {
        "dtype": training_dtype(device),
        # On a CPU the fused kernel's backward is slower than plain attention over short prompts.
        "attn_implementation": "eager" if device.type == "cpu" else "sdpa",
    }
    if settings.qlora:
        arguments |= _four_bits(device)
    transformer = load_transformer(base, encoder, **arguments)
    lora = LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=_lora_targets(transformer.model, settings.top_layers, base),
        base_model_name_or_path=base.name_or_path,
    )
    transformer.model = get_peft_model(transformer.model, lora)
    for name in [name for name, _ in transformer.model.named_modules()]:
        if name.endswith(f".lora_dropout.{ADAPTER}") and settings.lora_dropout:
            transformer.model.set_submodule(name, Dropout(settings.lora_dropout))
    if settings.shard and processes.count() > 1:
        _shard(transformer.model.get_base_model(), device)
    return with_pooling(transformer, encoder, device)


def with_pooling(
    transformer: Transformer, encoder: EncoderSettings, device: torch.device
) -> SentenceTransformer:
    """Return the model that gives one vector a prompt, moved to the device."""
    pooling = Pooling(transformer.get_embedding_dimension(), POOLING_MODES[encoder.pooling])
    return SentenceTransformer(modules=[transformer, pooling], device=str(device))


def load_transformer(base: BaseModel, encoder: EncoderSettings, **arguments: Any) -> Transformer:
    """Load the LLM and its tokenizer as the first module of a sentence-transformers model.

    Args:
        base: the LLM.
        encoder: how a prompt becomes a vector.
        arguments: of ``transformers``, for the model.

    Raises:
        ModelError: the base model cannot be loaded, or reads fewer tokens than the settings ask for.
    """
    config = base_config(base, encoder.depth)
    try:
        with quiet_loading():
            transformer = Transformer(
                str(base.path),
                model_kwargs={"use_safetensors": True, **arguments},
                config_kwargs={LAYERS: config.num_hidden_layers},
                max_seq_length=encoder.max_tokens,
                # Text as it stands: the library would put it into the chat template of a chat model.
                modality_config={
                    "text": {"method": "forward", "method_output_name": "last_hidden_state"}
                },
                module_output_name="token_embeddings",
            )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ModelError(f"base model {base.path}: {str(error).splitlines()[0]}") from error
    check_max_tokens(transformer.model.config, transformer.tokenizer, encoder)
    if transformer.tokenizer.pad_token_id is None:
        transformer.tokenizer.pad_token = transformer.tokenizer.eos_token
    transformer.tokenizer.chat_template = None
    return transformer


def _lora_targets(model: nn.Module, top_layers: float, base: BaseModel) -> list[str]:
    """Return the names of the linear layers inside the top share of the transformer's blocks.

    Below the lowest of them nothing needs a gradient, which saves that part of the backward pass.
    """
    name, blocks = _blocks(model)
    if not len(blocks):
        raise ModelError(f"base model {base.path} has no list of layers that LoRA could go into")
    first = len(blocks) - math.ceil(top_layers * len(blocks))
    targets = [
        f"{name}.{i}.{inner}"
        for i in range(first, len(blocks))
        for inner, module in blocks[i].named_modules()
        if isinstance(module, nn.Linear | Conv1D)
    ]
    if not targets:
        raise ModelError(f"base model {base.path} has no linear layers that LoRA could go into")
    return targets


def _blocks(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """Return the transformer's blocks and their name; none, where there is no list of layers."""
    lists = [m for m in model.named_modules() if isinstance(m[1], nn.ModuleList)]
    whole = [(sum(1 for _ in blocks.modules()), name, blocks) for name, blocks in lists]
    _, name, blocks = max(whole, key=lambda entry: entry[0], default=(0, "", nn.ModuleList()))
    return name, blocks


def check_four_bits(settings: ScftSettings) -> None:
    """Check that the LLM can be held in 4 bits, if that is asked for.

    Raises:
        SettingsError: it cannot.
    """
    if not settings.qlora:
        return
    if settings.shard:
        raise SettingsError("scft.qlora and scft.shard do not go together: choose one")
    if best_device().type != "cuda":
        raise SettingsError("scft.qlora=true needs a CUDA GPU; leave it out")
    if find_spec("bitsandbytes") is None:
        raise SettingsError("scft.qlora=true needs a library: pip install 'llmemb[qlora]'")


def _four_bits(device: torch.device) -> dict[str, Any]:
    """Return how the LLM is loaded in 4 bits (QLoRA, arXiv 2305.14314)."""
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=training_dtype(device),
    )
    return {"quantization_config": config, "device_map": {"": torch.cuda.current_device()}}


def _shard(model: nn.Module, device: torch.device) -> None:
    """Split the frozen weights over the ranks, to be put together block by block when they are used.

    What is trained stays whole on each rank: checkpoints and gradients are as without.
    """
    trained: set[nn.Parameter] = {one for one in model.parameters() if one.requires_grad}
    for parameter in trained:
        parameter.data = parameter.data.to(device)
    mesh = init_device_mesh(device.type, (processes.count(),))
    for module in (*_blocks(model)[1], model):
        fully_shard(module, mesh=mesh, ignored_params=trained)


def write_encoder(folder: Path, model: SentenceTransformer) -> None:
    """Write a sentence-transformers folder without the base model's weights."""
    model.save_pretrained(str(folder), create_model_card=False)
    (folder / "README.md").unlink(missing_ok=True)  # an empty form that PEFT leaves
    path = folder / "sentence_bert_config.json"
    settings = json.loads(path.read_bytes())
    settings["config_kwargs"] = {LAYERS: model[0].model.config.num_hidden_layers}
    path.write_bytes(json_bytes(settings))
    # PEFT writes sets in no fixed order; the bundle's id is a hash over this file.
    path = folder / "adapter_config.json"
    config = json.loads(path.read_bytes())
    config["target_modules"] = sorted(config["target_modules"])
    config["inference_mode"] = True
    path.write_bytes(json_bytes(config))
