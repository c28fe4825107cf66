"""Does a vector depend on its batch? Thousands of random batches against each prompt alone.

    python benchmarks/invariance.py data/beauty             # about 15 minutes on two cores

Prompts, their number, their order and, in some batches, a text that does not share their opening are
drawn at random. Writes ``results/invariance.json``.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from report import must_show, write_report
from rich.progress import track
from transformers import AutoTokenizer

from llmemb.base_model import DEFAULT_BASE_MODEL, find_base_model
from llmemb.encoder import Encoder, EncoderSettings, Precision, load_base
from llmemb.fused_int8 import Int8Llama
from llmemb.prompt import sampled, shared_opening
from trainer.dataset import read_dataset
from trainer.presets import build_preset
from trainer.train import prompt_template

POOL, LARGEST = 400, 32
STRANGER = "a text that begins in its own way"
BOUND = 0.999  # of the cosine


def main() -> None:
    """Measure and write ``results/invariance.json``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="prepared data (`llmemb data prepare`)")
    parser.add_argument("--base-model", default=DEFAULT_BASE_MODEL, help="the LLM")
    parser.add_argument("--batches", type=int, default=2000)
    arguments = parser.parse_args()
    base = find_base_model(arguments.base_model)
    data = read_dataset(arguments.data)
    template = prompt_template(data, build_preset("default"))
    step = max(1, len(data.catalogue) // POOL)
    texts = [template.render(item) for item in data.catalogue.attributes[::step]]
    opening = shared_opening(sampled(texts))
    model = load_base(base, torch.bfloat16)
    tokenizer = AutoTokenizer.from_pretrained(base.path)
    device = torch.device("cpu")
    precisions: list[Precision] = ["auto"]
    if Int8Llama.fits(model, device):
        precisions.append("int8")
    shown = {}
    for precision in precisions:
        encoder = Encoder(model, tokenizer, EncoderSettings(), device, opening, precision)
        shown[precision] = differences(encoder, texts, arguments.batches)
    print(
        write_report(
            "invariance",
            f"{arguments.batches} random batches of {len(texts)} prompts of {data.facts.name}, "
            f"{base.source}, CPU",
            1,
            [
                must_show(
                    f"{precision}: lowest cosine of a vector in a batch with the one alone",
                    found["lowest_cosine"],
                    f">= {BOUND}",
                    found["lowest_cosine"] >= BOUND,
                )
                for precision, found in shown.items()
            ],
            **shown,
        )
    )


def differences(encoder: Encoder, texts: list[str], batches: int) -> dict[str, Any]:
    """Return how far vectors in batches are from those of the same texts alone."""
    rng = np.random.default_rng(0)
    tokens = encoder.tokenize([*texts, STRANGER])
    alone = np.concatenate([encoder.forward([one]) for one in tokens]).astype(np.float32)
    norms = np.linalg.norm(alone, axis=1)
    lowest, largest, compared = 1.0, 0.0, 0
    for _ in track(range(batches), encoder.forward_pass):
        chosen = rng.permutation(len(tokens))[: rng.integers(2, LARGEST + 1)]
        found = encoder.forward([tokens[i] for i in chosen]).astype(np.float32)
        dots = (found * alone[chosen]).sum(1)
        cosines = dots / norms[chosen] / np.linalg.norm(found, axis=1)
        lowest = min(lowest, float(cosines.min()))
        apart = np.linalg.norm(found - alone[chosen], axis=1) / norms[chosen]
        largest = max(largest, float(apart.max()))
        compared += len(chosen)
    return {
        "forward_pass": encoder.forward_pass,
        "vectors_compared": compared,
        "lowest_cosine": round(lowest, 6),
        "largest_relative_difference": round(largest, 5),
    }


if __name__ == "__main__":
    main()
