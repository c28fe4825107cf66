"""Offline embedding, measured: LLMEmb against what users would pick instead, in turns in one run.

    make encode DATA=data/beauty              # installs the peers, too; over an hour on two cores
    python benchmarks/encode.py data/beauty --items 500

Same weights, texts and cores for all. Every way has a process of its own and waits while another one
runs. A round is one part of the texts, by each way in turn; ratios are medians over rounds. Peers that
are not installed are left out. Writes ``results/encode.json``.
"""

import argparse
import importlib.util
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

from llmemb.base_model import DEFAULT_BASE_MODEL, DEFAULT_PACKAGE, find_base_model
from llmemb.prompt import sampled, shared_opening
from llmemb.text_tree import TextTree
from trainer.dataset import read_dataset
from trainer.presets import build_preset
from trainer.train import prompt_template

EXACT, INT8, REFERENCE = "llmemb", "llmemb int8", "sentence-transformers float32"
OURS = (EXACT, INT8)
ELSEWHERE = {  # where it is installed, see the Makefile
    "infinity": ".venv-infinity",
    "llama.cpp": ".venv-llama-cpp",
    "openvino int8": ".venv-openvino",
}
PEER_AGREES, WE_AGREE = 0.99, 0.999
FASTER, SHARE = 1.3, 0.85


class Worker:
    """A way to embed in its own process."""

    def __init__(self, way: str, python: str, model: Path, folder: Path, **known: str) -> None:
        self.vectors = folder / f"{way.replace(' ', '-')}.npy"
        script = str(Path(__file__).with_name("encode_workers.py"))
        self.process = subprocess.Popen(
            [python, script, way, str(model), str(folder / "texts.json"), str(self.vectors)],
            env={**os.environ, **known, "OMP_NUM_THREADS": str(os.cpu_count())},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer("ready")

    def round(self, start: int, step: int) -> float:
        """Embed one part of the texts; return the seconds."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{start} {step}\n")
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
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--peers", type=Path, default=Path(), help="folder of their environments")
    arguments = parser.parse_args()
    pythons = {way: sys.executable for way in WAYS if way not in ELSEWHERE}
    for way, environment in ELSEWHERE.items():
        if (python := arguments.peers / environment / "bin" / "python").exists():
            pythons[way] = str(python)
    base = find_base_model(arguments.base_model)
    data = read_dataset(arguments.data)
    template = prompt_template(data, build_preset("default"))
    step = max(1, len(data.catalogue) // (arguments.items or len(data.catalogue)))
    texts = [template.render(item) for item in data.catalogue.attributes[::step]]
    opening = shared_opening(sampled(texts))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
        workers = {
            way: Worker(way, python, base.path, folder, OPENING=opening, LLAMA_GGUF=gguf())
            for way, python in pythons.items()
        }
        seconds: dict[str, list[float]] = {way: [] for way in workers}
        rates = []
        for number in range(arguments.rounds):
            rates.append(matrix_product_rate())
            for way, worker in workers.items():
                seconds[way].append(worker.round(number, arguments.rounds))
                print(f"round {number}: {way}: {seconds[way][-1]:.1f} s", file=sys.stderr)
        vectors = {way: worker.finish() for way, worker in workers.items()}
    tokens = tokenised(base.path, texts)
    lengths = [len(ids) for ids in tokens]
    shown = figures(seconds, vectors, lengths)
    parts = [tokens[i :: arguments.rounds] for i in range(arguments.rounds)]
    done = [place for part in parts for place in TextTree.of(part).positions]
    asked = [place for length in lengths for place in range(length)]
    possible = sum(seconds[EXACT]) * statistics.median(rates)
    share, share_done = (products(base.path, places) / possible for places in (asked, done))
    print(
        write_report(
            "encode",
            f"offline embedding of {len(texts)} prompts of {data.facts.name}, {base.source}, CPU",
            arguments.rounds,
            promises(shown, share),
            texts=len(texts),
            tokens=sum(lengths),
            matrix_product_rate=[round(rate / 1e9, 1) for rate in rates],
            share_of_matrix_product_rate={
                "by the products of all tokens, which other ways compute": round(share, 3),
                "by the products that are left when no beginning is computed twice": round(
                    share_done, 3
                ),
            },
            ways=shown,
        )
    )


def figures(
    seconds: dict[str, list[float]], vectors: dict[str, np.ndarray], lengths: list[int]
) -> dict[str, Any]:
    """Return each way's speed, and how well its vectors agree with float32."""
    found = {}
    for way, rounds in seconds.items():
        cosines = cosines_of(vectors[way], vectors[REFERENCE])
        found[way] = {
            "seconds": [round(one, 2) for one in rounds],
            "items_per_second": round(len(lengths) / sum(rounds), 1),
            "tokens_per_second": round(sum(lengths) / sum(rounds)),
            "cosine_mean": round(float(cosines.mean()), 6),
            "cosine_lowest": round(float(cosines.min()), 6),
        }
    return found


def promises(ways: dict[str, Any], share: float) -> list[dict[str, Any]]:
    """Return what can be said of the ways that were measured."""

    def total(way: str) -> float:
        return sum(ways[way]["seconds"])

    peers = [way for way in ways if way not in OURS and ways[way]["cosine_mean"] >= PEER_AGREES]
    fastest = min(peers, key=total)
    in_bfloat16 = min((way for way in peers if "int8" not in way), key=total)
    kinds = [
        (EXACT, f"the fastest peer of cosine {PEER_AGREES}", fastest),
        (INT8, f"the fastest peer of cosine {PEER_AGREES}", fastest),
        (EXACT, "the fastest peer that has no 8-bit products", in_bfloat16),
    ]
    found = []
    for ours, kind, peer in kinds:
        ratio = statistics.median(
            theirs / mine
            for theirs, mine in zip(ways[peer]["seconds"], ways[ours]["seconds"], strict=True)
        )
        line = f"items/s of {ours} over {kind} ({peer}), median of rounds"
        found.append(must_show(line, round(ratio, 3), f">= {FASTER}", ratio >= FASTER))
    for ours, which in ((EXACT, "lowest"), (INT8, "mean")):
        cosine = ways[ours][f"cosine_{which}"]
        line = f"{which} cosine of {ours} with float32"
        found.append(must_show(line, cosine, f">= {WE_AGREE}", cosine >= WE_AGREE))
    line = (
        f"share of the measured bfloat16 matrix-product rate, {EXACT}, by the tokens of all prompts"
    )
    found.append(must_show(line, round(share, 3), f">= {SHARE}", share >= SHARE))
    return found


def cosines_of(a: np.ndarray, b: np.ndarray) -> np.ndarray:
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


def tokenised(model: Path, texts: list[str]) -> list[list[int]]:
    """Return the tokens of each text that are read."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    found: list[list[int]] = tokenizer(texts, truncation=True, max_length=MAX_TOKENS)["input_ids"]
    return found


def gguf() -> str:
    """Return the file that the default base model was converted from: the same weights for llama.cpp."""
    spec = importlib.util.find_spec(DEFAULT_PACKAGE)
    files = list(Path(spec.origin).parent.glob("*.gguf")) if spec and spec.origin else []
    return str(files[0]) if files else ""


def products(model: Path, places: list[int]) -> float:
    """Return the operations of the matrix products for tokens in those places of their texts."""
    config = json.loads((model / "config.json").read_text())
    width, inner = config["hidden_size"], config["intermediate_size"]
    head = config.get("head_dim") or width // config["num_attention_heads"]
    heads, key_heads = config["num_attention_heads"], config["num_key_value_heads"]
    weights = width * head * (2 * heads + 2 * key_heads) + 3 * width * inner
    read = sum(places) + len(places)  # pairs of a token and one that it reads
    total = 2 * len(places) * weights + 4 * read * heads * head
    return float(total * config["num_hidden_layers"])


if __name__ == "__main__":
    main()
