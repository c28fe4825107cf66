"""A tiny bundle in everything like a real one: 40 films, a LoRA on a random Llama, a random SASRec."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from tiny import make_tiny_llm
from transformers import AutoModel, AutoTokenizer

from llmemb.adapter import Adapter, AdapterSettings
from llmemb.base_model import find_base_model
from llmemb.bundle import (
    MANIFEST,
    BaseModelReference,
    DataFacts,
    Manifest,
    encoder_fingerprint,
    read_manifest,
    write_bundle,
)
from llmemb.catalogue import Catalogue
from llmemb.encoder import EncoderSettings, load_encoder
from llmemb.files import json_bytes, sha256_of
from llmemb.projection import fit_projection
from llmemb.prompt import PromptTemplate
from llmemb.srs import BackboneSettings, build_backbone

FILMS = 40
WIDTH = 16
MAX_LENGTH = 8
TINY_REPEAT_BIAS = -0.75
GENRES = ["Crime", "Drama", "Comedy", "Action", "Romance"]
PROMPT = PromptTemplate(domain="film", fields=("title",), exclude=("votes",))
ENCODER = EncoderSettings(max_tokens=128)


def film(i: int) -> dict[str, Any]:
    """Attributes of one made-up film; no two are alike."""
    genres = [GENRES[i % 5], GENRES[(i // 5) % 5]]
    return {"title": f"Film number {i}", "genres": genres, "year": 1960 + i, "votes": 10 * i}


def film_id(i: int) -> str:
    """Ids with slashes, blanks and other letters: a catalogue may have any."""
    return {0: "a/b c", 1: "Ümläut?x=1", 2: "x/y/z"}.get(i, f"film-{i}")


def make_tiny_bundle(folder: Path, *, residuals: bool = False, width: int = WIDTH) -> Path:
    """Write the base model to ``folder/base`` and the bundle to ``folder/bundle``; return the latter.

    ``residuals``: training learnt something of each item besides its attributes. ``width``: of item
    vectors.
    """
    base = find_base_model(str(make_tiny_llm(folder / "base")))
    bundle = folder / "bundle"
    torch.manual_seed(1)
    model = get_peft_model(
        AutoModel.from_pretrained(base.path),
        LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False),
    )
    model.save_pretrained(bundle / "encoder")
    AutoTokenizer.from_pretrained(base.path).save_pretrained(bundle / "encoder")
    (bundle / "encoder" / "README.md").unlink(missing_ok=True)  # peft's own card
    catalogue = Catalogue([film_id(i) for i in range(FILMS)], [film(i) for i in range(FILMS)])
    encoder = load_encoder(bundle / "encoder", base, ENCODER)
    llm = encoder.encode([PROMPT.render(attributes) for attributes in catalogue.attributes])
    projection = fit_projection(llm, 12, "pca")
    adapter = Adapter(AdapterSettings(inputs=projection.dimensions, outputs=width)).eval()
    srs = BackboneSettings(
        width=width, blocks=1, max_length=MAX_LENGTH, unit_items=True, repeat_bias=True
    )
    backbone = build_backbone(srs).eval()
    torch.nn.init.constant_(backbone.repeat_bias, TINY_REPEAT_BIAS)
    with torch.inference_mode():
        adapted = adapter(torch.from_numpy(projection(llm)))
        learnt = 0.3 * torch.randn_like(adapted) if residuals else torch.zeros_like(adapted)
        item_vectors = backbone.item_space(adapted + learnt).numpy()
    rng = np.random.default_rng(3)
    lora = sha256_of(bundle / "encoder" / "adapter_model.safetensors")
    manifest = Manifest(
        base_model=BaseModelReference(source=base.source, sha256=base.sha256),
        prompt=PROMPT,
        encoder=ENCODER,
        encoder_fingerprint=encoder_fingerprint(base.sha256, lora, PROMPT, ENCODER),
        llm_dimensions=encoder.dimensions,
        adapter=adapter.settings,
        srs=srs,
        data=DataFacts(name="tiny", fingerprint="0", items=FILMS, users=9, interactions=99),
        settings={},
        metrics={},
        history={},
        libraries={},
    )
    write_bundle(
        bundle,
        manifest,
        catalogue=catalogue,
        popularity=rng.permutation(np.arange(FILMS) // 2).astype(np.int64),  # holds ties
        projection=projection,
        adapter=adapter,
        backbone=backbone,
        llm_vectors=llm,
        item_vectors=item_vectors,
        residuals=learnt.numpy() if residuals else None,
        places=rng.uniform(-1, 1, (FILMS, 2)).astype(np.float32),
        card="# tiny\n",
    )
    return bundle


def reseal(bundle: Path, **changes: Any) -> None:
    """Write the manifest that a bundle's trainer would after its files, or these of its fields, changed."""
    manifest = read_manifest(bundle)
    files = {name: sha256_of(bundle / name) for name in manifest.files}
    sealed = manifest.model_copy(update={"files": files, **changes}).sealed()
    (bundle / MANIFEST).write_bytes(json_bytes(sealed.model_dump(mode="json")))
