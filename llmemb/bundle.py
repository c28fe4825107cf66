"""The bundle: the one directory that the trainer writes and the service reads.

It is complete but for the base model's weights, holds no pickle and no code, and every byte of it is
covered by a hash: the files by ``manifest.json``, the manifest by its own ``bundle`` field.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file as load_tensors
from safetensors.torch import save_file as save_tensors
from torch import nn

from llmemb.adapter import Adapter, AdapterSettings
from llmemb.base_model import BaseModel as LocalModel
from llmemb.base_model import find_base_model
from llmemb.catalogue import Catalogue, read_parquet
from llmemb.encoder import Encoder, EncoderSettings, Precision, load_encoder
from llmemb.errors import BundleError, LLMEmbError, ModelError
from llmemb.files import json_bytes, sha256_of
from llmemb.projection import Projection
from llmemb.prompt import PromptTemplate, sampled
from llmemb.signature import SIGNATURE, check_signature
from llmemb.srs import Backbone, BackboneSettings, build_backbone

SCHEMA_VERSION = 1
MAX_MANIFEST_BYTES = 4 * 1024 * 1024

MANIFEST, ITEMS, CARD = "manifest.json", "items.parquet", "README.md"
ENCODER, SRS_SETTINGS, SRS_MODEL = "encoder", "srs/config.json", "srs/model.safetensors"
PROJECTION, ADAPTER = "projection.safetensors", "adapter.safetensors"
LLM_VECTORS, ITEM_VECTORS = "llm_vectors.safetensors", "item_vectors.safetensors"
PLACES = "places.safetensors"


class BaseModelReference(BaseModel):
    """Which base model the LoRA belongs to."""

    source: str  # the name it was trained by: a hub id, a path, or the default model's name
    sha256: str  # over weights and tokenizer


class DataFacts(BaseModel):
    """The prepared data that a bundle was trained on."""

    name: str
    fingerprint: str
    items: int
    users: int
    interactions: int


class Manifest(BaseModel):
    """What a bundle is made of; ``manifest.json``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = 1
    bundle: str = ""  # the bundle's id: hash over everything below
    base_model: BaseModelReference
    prompt: PromptTemplate
    encoder: EncoderSettings
    encoder_fingerprint: str  # two bundles with the same one give the same LLM vectors
    llm_dimensions: int
    adapter: AdapterSettings
    srs: BackboneSettings
    data: DataFacts
    settings: dict[str, Any]  # the preset as trained, every value
    metrics: dict[str, Any]  # rows (this bundle and its baselines) of ``llmemb evaluate``'s answer
    history: dict[str, list[dict[str, float]]]  # by stage: SCFT's step, loss; epochs' loss, ndcg
    libraries: dict[str, str]
    files: dict[str, str] = Field(default_factory=dict)  # path inside the bundle -> SHA-256

    def sealed(self) -> Self:
        """Return the manifest with its ``bundle`` id filled in."""
        content = json_bytes(self.model_dump(mode="json", exclude={"bundle"}))
        return self.model_copy(update={"bundle": hashlib.sha256(content).hexdigest()[:32]})


def encoder_fingerprint(
    base_sha256: str, lora_sha256: str, prompt: PromptTemplate, encoder: EncoderSettings
) -> str:
    """Return the hash of all that decides an item's LLM vector; it prefixes the cache keys."""
    parts = [
        base_sha256,
        lora_sha256,
        prompt.model_dump(mode="json"),
        encoder.model_dump(mode="json"),
    ]
    return hashlib.sha256(json_bytes(parts)).hexdigest()[:16]


@dataclass(frozen=True)
class Bundle:
    """A verified bundle in memory, all but its encoder.

    Attributes:
        path: where it was read from.
        popularity: int64 ``[items]``, training interactions.
        llm_vectors: float16 ``[items, llm]``.
        item_vectors: float32 ``[items, width]``, what the backbone is scored against.
        residuals: float32 ``[items, width]``, what training learnt of each item besides its attributes;
            None: nothing.
        places: float32 ``[items, 2]``, the catalogue as a map, within -1 and 1.
    """

    path: Path
    manifest: Manifest
    catalogue: Catalogue
    popularity: NDArray[np.int64]
    projection: Projection
    adapter: Adapter
    backbone: Backbone
    llm_vectors: NDArray[np.float16]
    item_vectors: NDArray[np.float32]
    residuals: NDArray[np.float32] | None
    places: NDArray[np.float32]

    def adapt(
        self, llm_vectors: NDArray[np.floating], residuals: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Return item vectors, float32 ``[items, width]``, from LLM vectors ``[items, llm]``.

        ``residuals``, of the same shape as the answer, are those of known items whose attributes changed.
        """
        with torch.inference_mode():
            adapted = self.adapter(torch.from_numpy(self.projection(llm_vectors)))
            if residuals is not None:
                adapted = adapted + torch.from_numpy(residuals)
            vectors: NDArray[np.float32] = self.backbone.item_space(adapted).numpy()
        return vectors

    def load_encoder(self, base_model: str | None = None, precision: Precision = "auto") -> Encoder:
        """Load the LLM with this bundle's LoRA merged in.

        Args:
            base_model: where the base model is on this machine; default: as it was trained.
            precision: see :class:`llmemb.encoder.Encoder`.

        Raises:
            ModelError: see :meth:`find_base`; or the model does not allow for the precision.
        """
        base = self.find_base(base_model)
        sample = [self.manifest.prompt.render(item) for item in sampled(self.catalogue.attributes)]
        return load_encoder(
            self.path / ENCODER, base, self.manifest.encoder, sample=sample, precision=precision
        )

    def find_base(self, base_model: str | None = None) -> LocalModel:
        """Return the LLM that the LoRA belongs to, without it.

        Args:
            base_model: where it is on this machine; default: as it was trained.

        Raises:
            ModelError: the base model is not there, or is another one than trained with.
        """
        reference = self.manifest.base_model
        base = find_base_model(base_model or reference.source)
        if base.sha256 != reference.sha256:
            raise ModelError(
                f"base model {base.path} is not the one that this bundle was trained with "
                f"({reference.source}, sha256 {reference.sha256[:12]}...); name that with --base-model"
            )
        return base


def write_bundle(
    folder: Path,
    manifest: Manifest,
    *,
    catalogue: Catalogue,
    popularity: NDArray[np.int64],
    projection: Projection,
    adapter: Adapter,
    backbone: Backbone,
    llm_vectors: NDArray[np.float16],
    item_vectors: NDArray[np.float32],
    residuals: NDArray[np.float32] | None,
    places: NDArray[np.float32],
    card: str,
) -> Manifest:
    """Write a bundle into a folder that holds its ``encoder/`` already; return the sealed manifest.

    The caller hands in a folder aside and renames it (``llmemb.files.replacing_directory``).
    """
    (folder / "srs").mkdir()
    catalogue.write(folder / ITEMS, popularity=pa.array(popularity))
    save_arrays(projection.tensors(), folder / PROJECTION)
    save_tensors(adapter.state_dict(), folder / ADAPTER)
    (folder / SRS_SETTINGS).write_bytes(json_bytes(backbone.settings.model_dump(mode="json")))
    save_tensors(backbone.state_dict(), folder / SRS_MODEL)
    save_arrays({"vectors": llm_vectors}, folder / LLM_VECTORS)
    tables = {"vectors": item_vectors}
    if residuals is not None:
        tables["residuals"] = residuals
    save_arrays(tables, folder / ITEM_VECTORS)
    save_arrays({"places": places}, folder / PLACES)
    (folder / CARD).write_text(card, encoding="utf-8")
    files = {
        path.relative_to(folder).as_posix(): sha256_of(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    sealed = manifest.model_copy(update={"files": files}).sealed()
    (folder / MANIFEST).write_bytes(json_bytes(sealed.model_dump(mode="json")))
    return sealed


def check_replaceable(out: Path) -> None:
    """Check that a bundle may be written there: the place is free, or a bundle's.

    Raises:
        LLMEmbError: it is something else's.
    """
    if out.exists() and not (out / MANIFEST).is_file():
        raise LLMEmbError(f"{out} is there and is no bundle; remove it or choose another --out")


def read_manifest(path: Path) -> Manifest:
    """Read and check ``manifest.json`` alone; the files it names are not looked at.

    Raises:
        BundleError: it is missing, changed, or of another schema.
    """
    file = path / MANIFEST
    if not file.is_file() or file.is_symlink():
        raise BundleError(f"{file} is missing; is {path} a bundle? (`llmemb train` writes one)")
    if file.stat().st_size > MAX_MANIFEST_BYTES:
        raise BundleError(f"{file} is larger than {MAX_MANIFEST_BYTES:,} bytes")
    content = file.read_bytes()
    try:
        raw = json.loads(content)
        if raw["schema_version"] != SCHEMA_VERSION:
            raise BundleError(
                f"{file}: schema {raw['schema_version']!r}, this version reads {SCHEMA_VERSION}"
            )
        manifest = Manifest.model_validate(raw)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise BundleError(f"{file} is changed or damaged: {reason}") from error
    # Compared byte by byte: even a changed blank is a change.
    if json_bytes(manifest.sealed().model_dump(mode="json")) != content:
        raise BundleError(f"{file} is changed: its content does not give the id it states")
    return manifest


def verify_files(path: Path, manifest: Manifest) -> None:
    """Check that a bundle holds exactly the files of its manifest, unchanged.

    Raises:
        BundleError: a file is missing, changed, not a plain file, or not in the manifest.
    """
    for name, sha256 in manifest.files.items():
        parts = PurePosixPath(name)
        if parts.is_absolute() or ".." in parts.parts:
            raise BundleError(f"{path / MANIFEST} names {name!r}, which lies outside the bundle")
        file = path / name
        if not file.is_file() or file.is_symlink():
            raise BundleError(f"{file} is missing")
        if sha256_of(file) != sha256:
            raise BundleError(f"{file} is changed: its SHA-256 is not the manifest's")
    known = {*manifest.files, MANIFEST, SIGNATURE}
    for file in path.rglob("*"):
        name = file.relative_to(path).as_posix()
        if (file.is_symlink() or not file.is_dir()) and name not in known:
            raise BundleError(f"{file} is not in the manifest")


def read_bundle(path: Path, signed_by: Path | None = None) -> Bundle:
    """Verify and load a bundle.

    Args:
        path: its directory.
        signed_by: public key of who must have signed it; None: no matter.

    Raises:
        BundleError: a file is missing, changed or of another schema; the message names it. Or it is not
            signed by that key.
    """
    manifest = read_manifest(path)
    if signed_by is not None:
        content = json_bytes(manifest.model_dump(mode="json"))  # to the byte, or it was refused
        check_signature(path / SIGNATURE, content, signed_by)
    verify_files(path, manifest)
    try:
        return _load(path, manifest)
    except (SafetensorError, RuntimeError, KeyError, ValueError, LLMEmbError) as error:
        reason = str(error).splitlines()[0]
        raise BundleError(f"{path}: its files do not fit each other: {reason}") from error


def _load(path: Path, manifest: Manifest) -> Bundle:
    catalogue = Catalogue.read(path / ITEMS)
    popularity = read_parquet(path / ITEMS, ["popularity"])["popularity"].to_numpy()
    weights, adapter_weights = load_tensors(path / SRS_MODEL), load_tensors(path / ADAPTER)
    _check_weights(SRS_MODEL, weights, lambda: build_backbone(manifest.srs))
    _check_weights(ADAPTER, adapter_weights, lambda: Adapter(manifest.adapter))
    backbone = build_backbone(manifest.srs)
    backbone.load_state_dict(weights)
    tables = load_arrays(path / ITEM_VECTORS)
    bundle = Bundle(
        path=path,
        manifest=manifest,
        catalogue=catalogue,
        popularity=popularity,
        projection=Projection.from_tensors(load_arrays(path / PROJECTION)),
        adapter=Adapter.rebuild(manifest.adapter, adapter_weights),
        backbone=backbone.eval().requires_grad_(False),
        llm_vectors=load_arrays(path / LLM_VECTORS)["vectors"],
        item_vectors=tables["vectors"],
        residuals=tables.get("residuals"),
        places=load_arrays(path / PLACES)["places"],
    )
    items, llm = len(catalogue), manifest.llm_dimensions
    projected, width = manifest.adapter.inputs, manifest.srs.width
    expected: list[tuple[str, NDArray[Any], tuple[int, ...], type]] = [
        (LLM_VECTORS, bundle.llm_vectors, (items, llm), np.float16),
        (ITEM_VECTORS, bundle.item_vectors, (items, width), np.float32),
        (PLACES, bundle.places, (items, 2), np.float32),
        (f"{PROJECTION}, mean,", bundle.projection.mean, (llm,), np.float32),
        (f"{PROJECTION}, matrix,", bundle.projection.matrix, (llm, projected), np.float32),
    ]
    if bundle.residuals is not None:
        name = f"{ITEM_VECTORS}, residuals,"
        expected.append((name, bundle.residuals, (items, width), np.float32))
    for name, array, shape, dtype in expected:
        if array.shape != shape or array.dtype != dtype:
            raise BundleError(
                f"{name} has shape {array.shape} and type {array.dtype}, not {shape} and {dtype.__name__}"
            )
        if not np.isfinite(array).all():
            raise BundleError(f"{name} holds values that are not finite")
    return bundle


def _check_weights(
    name: str, weights: Mapping[str, torch.Tensor], build: Callable[[], nn.Module]
) -> None:
    """Check that weights are those of a module, before memory is taken for what its settings say.

    Raises:
        BundleError: a tensor is missing, too many, of another shape or type, or not finite.
    """
    with torch.device("meta"):
        expected = {key: (one.shape, one.dtype) for key, one in build().state_dict().items()}
    if {key: (one.shape, one.dtype) for key, one in weights.items()} != expected:
        raise BundleError(f"{name} does not hold the tensors that the manifest's settings ask for")
    if not all(tensor.isfinite().all() for tensor in weights.values()):
        raise BundleError(f"{name} holds values that are not finite")
