"""Prompts to LLM vectors: the base model with its LoRA merged, and the forward pass that suits it.

Training the LoRA lives in ``trainer.scft``; batching concurrent requests in ``service.engine``.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel as Settings
from pydantic import ConfigDict, Field
from safetensors import SafetensorError

from llmemb.base_model import BaseModel
from llmemb.device import best_device, best_dtype
from llmemb.errors import BundleError, ModelError
from llmemb.forward import Pooling, TransformersForward
from llmemb.fused import FusedLlama
from llmemb.fused_int8 import Int8Llama
from llmemb.prompt import sampled, shared_opening

Precision = Literal["auto", "int8"]

INT8_AGREES = 0.999  # lowest cosine with the exact vectors; below it 8 bits are refused
INT8_PROBES = 32  # prompts that this is measured on


class EncoderSettings(Settings):
    """How a prompt becomes a vector; part of the encoder's fingerprint."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pooling: Pooling = "mean"
    max_tokens: int = Field(default=256, ge=8, le=8192)
    depth: float = Field(default=1.0, gt=0, le=1)  # share of the LLM's layers used, from the bottom


@dataclass(frozen=True)
class Tokens:
    """One tokenised prompt; ``truncated`` says whether its end was cut off."""

    ids: list[int]
    truncated: bool


class Encoder:
    """Turns prompts into LLM vectors. One thread may tokenise while another computes, but no more.

    Attributes:
        dimensions: of an LLM vector.
        dtype: the LLM's number format, for example ``bfloat16``.
        forward_pass: ``fused``, ``fused int8`` or ``transformers``.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        settings: EncoderSettings,
        device: torch.device,
        opening: str = "",
        precision: Precision = "auto",
    ) -> None:
        """Take a transformers model in its final dtype and its tokenizer; the model is moved.

        Args:
            model: headless.
            tokenizer: its tokenizer.
            settings: how a prompt becomes a vector.
            device: where to compute.
            opening: words that most prompts begin with, up to a blank; computed once.
            precision: ``auto``: the fastest pass that is exact, fused where the model and the device
                allow; ``int8``: matrix products of 8-bit integers.

        Raises:
            ModelError: ``int8``, and the model or the device has no such pass.
        """
        check_max_tokens(model.config, tokenizer, settings)
        model = model.eval().requires_grad_(False).to(device)
        self.tokenizer = tokenizer
        self.settings = settings
        self.device = device
        self.dtype = str(model.dtype).removeprefix("torch.")
        self.dimensions: int = model.config.hidden_size
        self._forward: FusedLlama | TransformersForward
        ids = tokenizer(opening, verbose=False)["input_ids"] if opening else []
        if precision == "int8":
            if not Int8Llama.fits(model, device):
                raise ModelError(
                    f"int8 is for Llama models on CPUs with VNNI, not for a {type(model).__name__} "
                    f"on this {device.type}; leave the precision at auto"
                )
            self._forward = Int8Llama(model, ids)
        elif FusedLlama.fits(model, device):
            self._forward = FusedLlama(model, ids)
        else:
            self._forward = TransformersForward(model, tokenizer.pad_token_id or 0)
        self.forward_pass = self._forward.name

    def tokenize(self, prompts: Sequence[str]) -> list[Tokens]:
        """Tokenise prompts, cutting each at ``max_tokens``; for EOS pooling the token is appended."""
        return tokenize(self.tokenizer, prompts, self.settings)

    def forward(self, batch: Sequence[Tokens]) -> NDArray[np.float16]:
        """Compute one batch; float16 ``[batch, llm]``, the precision that is cached and kept."""
        vectors = self._forward.pooled([tokens.ids for tokens in batch], self.settings.pooling)
        return vectors.to(torch.float16).cpu().numpy()

    def encode(
        self, prompts: Sequence[str], progress: Callable[[int], None] = lambda _: None
    ) -> NDArray[np.float16]:
        """Return the LLM vectors of prompts; see :meth:`encode_tokens`."""
        return self.encode_tokens(self.tokenize(prompts), progress)

    def encode_tokens(
        self, tokens: Sequence[Tokens], progress: Callable[[int], None] = lambda _: None
    ) -> NDArray[np.float16]:
        """Return the LLM vectors of tokenised prompts, float16 ``[prompts, llm]``, in the order given.

        ``progress`` is told how many each finished batch held.
        """
        vectors = np.empty((len(tokens), self.dimensions), dtype=np.float16)
        for batch in self._forward.batches([t.ids for t in tokens]):
            vectors[batch] = self.forward([tokens[i] for i in batch])
            progress(len(batch))
        return vectors


def check_max_tokens(config: Any, tokenizer: Any, settings: EncoderSettings) -> None:
    """Check that the model reads prompts as long as the settings allow.

    Raises:
        ModelError: it does not.
    """
    positions = getattr(config, "max_position_embeddings", None) or settings.max_tokens
    limit = min(positions, tokenizer.model_max_length)
    if settings.max_tokens > limit:
        raise ModelError(
            f"the base model reads at most {limit} tokens, encoder.max_tokens is "
            f"{settings.max_tokens}; set encoder.max_tokens={limit}"
        )


def tokenize(tokenizer: Any, prompts: Sequence[str], settings: EncoderSettings) -> list[Tokens]:
    """Tokenise as :meth:`Encoder.tokenize` does; the trainer calls it with its own tokenizer.

    Raises:
        ModelError: EOS pooling, and the tokenizer has no such token.
    """
    end = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
    if settings.pooling == "eos" and end is None:
        raise ModelError("the base model's tokenizer has no EOS token; use encoder.pooling=mean")
    appended = [end] if settings.pooling == "eos" else []
    limit = settings.max_tokens - len(appended)
    tokens = []
    for ids in tokenizer(list(prompts), verbose=False)["input_ids"]:
        whole = ids[:-1] if appended and ids[-1:] == appended else ids
        tokens.append(Tokens([*whole[:limit], *appended], truncated=len(whole) > limit))
    return tokens


def _forget_words(tokenizer: Any) -> None:
    """Keep no cache of words: it belongs to a thread, and stays there when the tokenizer is gone.

    A service would hold megabytes for each bundle that it ever served (tokenizers 0.23). Without the cache a
    prompt takes some 20 microseconds longer.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if resize := getattr(getattr(backend, "model", None), "_resize_cache", None):  # BPE and Unigram
        resize(0)


def load_encoder(
    folder: Path,
    base: BaseModel,
    settings: EncoderSettings,
    *,
    sample: Sequence[str] = (),
    precision: Precision = "auto",
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> Encoder:
    """Load a bundle's ``encoder/`` folder: base weights, LoRA merged in float32, then cast.

    Args:
        folder: of the LoRA and the tokenizer.
        base: the LLM.
        settings: how a prompt becomes a vector.
        sample: prompts of the catalogue: what they begin with is computed once, and in ``int8``
            their vectors must agree with the exact ones.
        precision: see :class:`Encoder`.
        device: default: the best there is.
        dtype: default: the best of the device.

    Raises:
        ModelError: the base model cannot be loaded, or not used in 8 bits.
        BundleError: the LoRA weights do not fit the base model.
    """
    from transformers import AutoTokenizer

    device = device or best_device()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    _forget_words(tokenizer)
    model = merge_lora(load_base(base, torch.float32, settings.depth), folder)
    model = model.to(dtype or best_dtype(device))
    opening = shared_opening(sample)
    exact = Encoder(model, tokenizer, settings, device, opening)
    if precision == "auto":
        return exact
    encoder = Encoder(model, tokenizer, settings, device, opening, precision)
    probes = sampled(sample, INT8_PROBES)
    agreement = _lowest_cosine(encoder.encode(probes), exact.encode(probes))
    if not agreement >= INT8_AGREES:
        raise ModelError(
            f"in int8 the vectors of this catalogue agree with the exact ones to a cosine of "
            f"{agreement:.4f}, less than {INT8_AGREES}; leave the precision at auto"
        )
    return encoder


def merge_lora(model: Any, folder: Path) -> Any:
    """Return the model with a folder's LoRA merged into its weights, which are best in float32.

    Raises:
        BundleError: the LoRA weights do not fit the model.
    """
    from peft import PeftModel

    try:
        return PeftModel.from_pretrained(model, folder).merge_and_unload()
    except (RuntimeError, ValueError, OSError) as error:
        reason = str(error).splitlines()[0]
        name = model.config.name_or_path
        raise BundleError(f"{folder}: the LoRA does not fit {name}: {reason}") from error


def _lowest_cosine(a: NDArray[np.float16], b: NDArray[np.float16]) -> float:
    found, expected = torch.from_numpy(a).float(), torch.from_numpy(b).float()
    return float(torch.cosine_similarity(found, expected).min())


def load_base(base: BaseModel, dtype: torch.dtype, depth: float = 1.0) -> Any:
    """Load the headless transformer of a base model; no remote code, no pickle.

    Args:
        base: the LLM.
        dtype: of its weights in memory.
        depth: share of its layers that is loaded, from the bottom.

    Raises:
        ModelError: transformers does not know the architecture, or the weights are unreadable.
    """
    from transformers import AutoModel

    config = base_config(base, depth)
    try:
        with quiet_loading():
            return AutoModel.from_pretrained(
                base.path, config=config, dtype=dtype, use_safetensors=True
            )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ModelError(f"base model {base.path}: {str(error).splitlines()[0]}") from error


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Keep transformers from telling of weights that are left out on purpose, and from a bar of moments."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def base_config(base: BaseModel, depth: float) -> Any:
    """Return the base model's configuration, cut to a share of its layers from the bottom, at least one.

    Raises:
        ModelError: transformers does not know the architecture.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(base.path)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"base model {base.path}: {str(error).splitlines()[0]}") from error
    config.num_hidden_layers = max(1, round(depth * config.num_hidden_layers))
    return config
