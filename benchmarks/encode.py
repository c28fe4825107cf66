"""Offline embedding, measured: LLMEmb against what users would pick instead, in turns in one run.

    python benchmarks/encode.py data/beauty                 # sentence-transformers and transformers
    python benchmarks/encode.py data/beauty --python infinity=.venv-infinity/bin/python ...

Same weights, texts and cores for all. Every way has a process of its own and waits while another one
runs; a round is one pass over all texts by each. Ratios are of medians over rounds. Writes
``results/encode.json``.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from encode_workers import MAX_TOKENS, WAYS
from report import must_show, write_report
from transformers import AutoTokenizer

from llmemb.base_model import DEFAULT_BASE_MODEL, find_base_model
from llmemb.prompt import PromptTemplate
from trainer.dataset import read_dataset
from trainer.presets import build_preset
from trainer.train import prompt_template

OURS, REFERENCE = "llmemb", "sentence-transformers float32"
HERE = ("llmemb", "transformers bfloat16", REFERENCE, "sentence-transformers bfloat16")
PEER_AGREES, WE_AGREE = 0.99, 0.999
FASTER, SHARE = 1.3, 0.85


class Worker:
    """A way to embed in its own process."""

    def __init__(self, way: str, python: str, model: Path, folder: Path, opening: str) -> None:
        self.vectors = folder / f"{way.replace(' ', '-')}.npy"
        script = str(Path(__file__).with_name("encode_workers.py"))
        self.process = subprocess.Popen(
            [python, script, way, str(model), str(folder / "texts.json"), str(self.vectors)],
            env={**os.environ, "OPENING": opening, "OMP_NUM_THREADS": str(os.cpu_count())},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer("ready")

    def round(self) -> float:
        """Embed all texts once; return the seconds."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return float(self._answer())

    def finish(self) -> np.ndarray:
        """End the process; return its vectors, float32 ``[texts, llm]``."""
        self.process.communicate()
        return np.load(self.vectors)

    def _answer(self, expected: str | None = None) -> str:
        assert self.process.stdout is not None
        for line in self.process.stdout:  # libraries may print, too
            found = line.strip()
            if found == expected or (expected is None and found.replace(".", "", 1).isdigit()):
                return found
        raise RuntimeError(f"{self.process.args} ended")


def main() -> None:
    """Measure and write ``results/encode.json``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="prepared data (`llmemb data prepare`)")
    parser.add_argument("--base-model", default=DEFAULT_BASE_MODEL, help="the LLM")
    parser.add_argument("--items", type=int, help="only so many, spread over the catalogue")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--python", nargs="*", default=[], metavar="WAY=PYTHON", help=f"peers: {', '.join(WAYS)}"
    )
    parser.add_argument("--gguf", type=Path, help="the same weights for llama.cpp")
    arguments = parser.parse_args()
    pythons = dict.fromkeys(HERE, sys.executable)
    pythons |= dict(one.split("=", 1) for one in arguments.python)
    base = find_base_model(arguments.base_model)
    data = read_dataset(arguments.data)
    template = prompt_template(data, build_preset("default"))
    step = max(1, len(data.catalogue) // (arguments.items or len(data.catalogue)))
    texts = [template.render(item) for item in data.catalogue.attributes[::step]]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
        workers = {
            way: Worker(
                way,
                python,
                arguments.gguf if way == "llama.cpp" else base.path,
                folder,
                template.opening,
            )
            for way, python in pythons.items()
        }
        seconds: dict[str, list[float]] = {way: [] for way in workers}
        rates = []
        for number in range(arguments.rounds):
            rates.append(matrix_product_rate())
            for way, worker in workers.items():
                seconds[way].append(worker.round())
                print(f"round {number}: {way}: {seconds[way][-1]:.1f} s", file=sys.stderr)
        vectors = {way: worker.finish() for way, worker in workers.items()}
    lengths = token_counts(base.path, texts)
    shown = figures(seconds, vectors, lengths)
    work = products(base.path, lengths, opening_tokens(base.path, template))
    share = work / statistics.median(seconds[OURS]) / statistics.median(rates)
    print(
        write_report(
            "encode",
            f"offline embedding of {len(texts)} prompts of {data.facts.name}, {base.source}, CPU",
            arguments.rounds,
            promises(shown, share),
            texts=len(texts),
            tokens=sum(lengths),
            matrix_product_rate=[round(rate / 1e9, 1) for rate in rates],
            share_of_matrix_product_rate=round(share, 3),
            ways=shown,
        )
    )


def figures(
    seconds: dict[str, list[float]], vectors: dict[str, np.ndarray], lengths: list[int]
) -> dict[str, Any]:
    """Return each way's speed, and how well its vectors agree with float32."""
    found = {}
    for way, rounds in seconds.items():
        cosines = cosine(vectors[way], vectors[REFERENCE])
        median = statistics.median(rounds)
        found[way] = {
            "seconds": [round(one, 2) for one in rounds],
            "items_per_second": round(len(lengths) / median, 1),
            "tokens_per_second": round(sum(lengths) / median),
            "cosine_mean": round(float(cosines.mean()), 6),
            "cosine_lowest": round(float(cosines.min()), 6),
        }
    return found


def promises(ways: dict[str, Any], share: float) -> list[dict[str, Any]]:
    """Return what can be said of the ways that were measured."""
    agreeing = [way for way in ways if way != OURS and ways[way]["cosine_mean"] >= PEER_AGREES]
    fastest = max(agreeing, key=lambda way: ways[way]["items_per_second"])
    ratio = ways[OURS]["items_per_second"] / ways[fastest]["items_per_second"]
    lowest = ways[OURS]["cosine_lowest"]
    return [
        must_show(
            f"items/s over the fastest peer of cosine {PEER_AGREES} ({fastest})",
            round(ratio, 3),
            f">= {FASTER}",
            ratio >= FASTER,
        ),
        must_show("lowest cosine with float32", lowest, f">= {WE_AGREE}", lowest >= WE_AGREE),
        must_show(
            "share of the measured bfloat16 matrix-product rate",
            round(share, 3),
            f">= {SHARE}",
            share >= SHARE,
        ),
    ]


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return row by row the cosine, float64 ``[rows]``."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def matrix_product_rate() -> float:
    """Return bfloat16 operations a second of a product that stays in the cache."""
    x, w = torch.randn(512, 576).bfloat16(), torch.randn(3072, 576).bfloat16()
    torch.nn.functional.linear(x, w)
    best = 0.0
    for _ in range(5):
        began = time.perf_counter()
        for _ in range(100):
            torch.nn.functional.linear(x, w)
        best = max(best, 100 * 2 * 512 * 576 * 3072 / (time.perf_counter() - began))
    return best


def token_counts(model: Path, texts: list[str]) -> list[int]:
    """Return how many tokens of each text are read."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    found = tokenizer(texts, truncation=True, max_length=MAX_TOKENS)["input_ids"]
    return [len(ids) for ids in found]


def opening_tokens(model: Path, template: PromptTemplate) -> int:
    """Return how many tokens the prompts share."""
    return len(AutoTokenizer.from_pretrained(model)(template.opening)["input_ids"])


def products(model: Path, lengths: list[int], opening: int) -> float:
    """Return the operations of all matrix products that the vectors need, the opening's once left out."""
    config = json.loads((model / "config.json").read_text())
    width, inner = config["hidden_size"], config["intermediate_size"]
    head = config.get("head_dim") or width // config["num_attention_heads"]
    heads, key_heads = config["num_attention_heads"], config["num_key_value_heads"]
    weights = width * head * (2 * heads + 2 * key_heads) + 3 * width * inner
    total = 0.0
    for length in lengths:
        new = length - opening
        read = new * (opening + (new + 1) / 2)  # pairs of a token and one that it reads
        total += 2 * new * weights + 4 * read * heads * head
    return total * config["num_hidden_layers"]


if __name__ == "__main__":
    main()
