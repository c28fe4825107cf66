"""Golden vectors: what a tiny model of fixed weights gave once, it gives on every machine and version.

``PYTHONPATH=tests python tests/llmemb/test_golden.py`` writes ``tests/golden`` anew, with the library's
forward pass in float32; there is no reason to but a change of the prompt or of the pooling that is meant.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import make_tiny_llm, needs_bfloat16
from transformers import AutoModel, AutoTokenizer

from llmemb.encoder import EncoderSettings, tokenize
from llmemb.forward import TransformersForward
from llmemb.fused import FusedLlama
from llmemb.prompt import PromptTemplate

GOLDEN = Path(__file__).parents[1] / "golden"
TEMPLATE = PromptTemplate(domain="film", fields=("title", "year"))
ITEMS = [
    {"title": "Heat", "year": 1995, "genres": ["Crime", "Thriller"]},
    {"title": "千と千尋の神隠し", "year": 2001},
    {"genres": [], "title": " Ronin ", "cast": {"lead": "Robert De Niro", "other": ["Jean Reno"]}},
    {"title": "x" * 300},
]
POOLINGS = ("mean", "last", "eos")
BOUNDS = {torch.float32: 0.999999, torch.bfloat16: 0.9998}  # of the cosine


def token_ids(pooling: str) -> list[list[int]]:
    tokenizer = AutoTokenizer.from_pretrained(GOLDEN / "llm")
    settings = EncoderSettings(pooling=pooling, max_tokens=96)
    prompts = [TEMPLATE.render(item) for item in ITEMS]
    return [tokens.ids for tokens in tokenize(tokenizer, prompts, settings)]


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize(
    ("fused", "dtype"),
    [
        (True, torch.float32),
        pytest.param(True, torch.bfloat16, marks=needs_bfloat16),
        (False, torch.float32),
        (False, torch.bfloat16),
    ],
)
def test_vectors_are_the_golden_ones(pooling: str, dtype: torch.dtype, fused: bool) -> None:
    golden = json.loads((GOLDEN / "vectors.json").read_text())
    ids = token_ids(pooling)
    assert ids == golden[pooling]["tokens"]
    model = AutoModel.from_pretrained(GOLDEN / "llm", dtype=dtype).eval().requires_grad_(False)
    forward = FusedLlama(model, ids[0][:4]) if fused else TransformersForward(model, 0)
    found = forward.pooled(ids, pooling)
    cosines = torch.cosine_similarity(found, torch.tensor(golden[pooling]["vectors"]))
    assert cosines.min() > BOUNDS[dtype]


if __name__ == "__main__":
    make_tiny_llm(GOLDEN / "llm")
    written = {}
    for name in POOLINGS:
        texts = token_ids(name)
        llm = AutoModel.from_pretrained(GOLDEN / "llm").eval().requires_grad_(False)
        vectors = TransformersForward(llm, 0).pooled(texts, name).numpy()
        written[name] = {"tokens": texts, "vectors": np.round(vectors.astype(float), 6).tolist()}
    (GOLDEN / "vectors.json").write_text(json.dumps(written) + "\n")
