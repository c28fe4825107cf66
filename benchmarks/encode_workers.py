"""One way to embed texts, in a process of its own: a line on standard input is a round.

    python encode_workers.py WAY MODEL TEXTS VECTORS

Run by ``encode.py``, each way with the Python of an environment that has what it needs. Prints
``ready``, then the seconds of each round; the last round's vectors go to VECTORS (float32, NumPy).
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

MAX_TOKENS = 256
THREADS = int(os.environ.get("OMP_NUM_THREADS", "1"))
Embed = Callable[[list[str]], Any]


def llmemb(model: Path) -> Embed:
    """LLMEmb: the fused forward pass in bfloat16, the opening of the prompts computed once."""
    import torch
    from transformers import AutoTokenizer

    from llmemb.base_model import BaseModel
    from llmemb.encoder import Encoder, EncoderSettings, load_base

    opening = os.environ["OPENING"]
    llm = load_base(BaseModel("benchmark", model), torch.bfloat16)
    tokenizer = AutoTokenizer.from_pretrained(model)
    settings = EncoderSettings(max_tokens=MAX_TOKENS)
    return Encoder(llm, tokenizer, settings, torch.device("cpu"), opening).encode


def transformers_bfloat16(model: Path) -> Embed:
    """The library transformers in bfloat16, batches of like length: what anyone would write in an hour."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    from llmemb.forward import TransformersForward

    llm = AutoModel.from_pretrained(model, dtype=torch.bfloat16).eval()
    tokenizer = AutoTokenizer.from_pretrained(model)
    forward = TransformersForward(llm, 0)

    def embed(texts: list[str]) -> Any:
        tokens = tokenizer(texts, truncation=True, max_length=MAX_TOKENS)["input_ids"]
        return forward.pooled(tokens, "mean").numpy()

    return embed


def sentence_transformers(model: Path, dtype: str) -> Embed:
    """sentence-transformers, which sorts by length itself."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer

    llm = Transformer(
        str(model),
        max_seq_length=MAX_TOKENS,
        model_kwargs={"dtype": getattr(torch, dtype)},
        # Without these it would put the texts into the model's chat template.
        modality_config={"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
        module_output_name="token_embeddings",
    )
    llm.tokenizer.pad_token = llm.tokenizer.pad_token or llm.tokenizer.eos_token
    encoder = SentenceTransformer(modules=[llm, Pooling(llm.get_embedding_dimension(), "mean")])
    return lambda texts: (
        encoder.encode(texts, batch_size=32, convert_to_tensor=True).float().numpy()
    )


def infinity(model: Path) -> Embed:
    """Infinity's engine, without HTTP, in bfloat16 if the version can."""
    import asyncio

    from infinity_emb import AsyncEmbeddingEngine, EngineArgs

    loop = asyncio.new_event_loop()
    arguments = EngineArgs(
        model_name_or_path=str(model),
        engine="torch",
        device="cpu",
        dtype="bfloat16",
        pooling_method="mean",
        bettertransformer=False,
        compile=False,
    )
    engine = AsyncEmbeddingEngine.from_args(arguments)
    loop.run_until_complete(engine.astart())
    return lambda texts: np.stack(loop.run_until_complete(engine.embed(sentences=texts))[0])


def llama_cpp(model: Path) -> Embed:
    """llama.cpp, from a GGUF file."""
    from llama_cpp import LLAMA_POOLING_TYPE_MEAN, Llama

    llm = Llama(
        str(model),
        embedding=True,
        pooling_type=LLAMA_POOLING_TYPE_MEAN,
        n_ctx=4096,
        n_batch=4096,
        n_ubatch=4096,
        n_threads=THREADS,
        n_threads_batch=THREADS,
        verbose=False,
    )
    return lambda texts: np.array(llm.embed(texts, normalize=False), dtype=np.float32)


def openvino(model: Path, bits: int) -> Embed:
    """OpenVINO by optimum-intel; 16: bfloat16, 8: weights in int8, compressed as optimum does."""
    import torch
    from optimum.intel import OVModelForFeatureExtraction
    from transformers import AutoTokenizer

    llm = OVModelForFeatureExtraction.from_pretrained(
        model,
        export=True,
        load_in_8bit=bits == 8,
        ov_config={"INFERENCE_PRECISION_HINT": "bf16", "INFERENCE_NUM_THREADS": str(THREADS)},
    )
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token

    def embed(texts: list[str]) -> Any:
        order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
        vectors = np.empty((len(texts), llm.config.hidden_size), np.float32)
        for start in range(0, len(order), 16):
            rows = order[start : start + 16]
            batch = tokenizer(
                [texts[row] for row in rows],
                padding=True,
                truncation=True,
                max_length=MAX_TOKENS,
                return_tensors="pt",
            )
            hidden = llm(**batch).last_hidden_state
            mask = batch["attention_mask"][..., None]
            vectors[rows] = ((hidden * mask).sum(1) / mask.sum(1)).to(torch.float32).numpy()
        return vectors

    return embed


WAYS: dict[str, Callable[[Path], Embed]] = {
    "llmemb": llmemb,
    "transformers bfloat16": transformers_bfloat16,
    "sentence-transformers float32": lambda model: sentence_transformers(model, "float32"),
    "sentence-transformers bfloat16": lambda model: sentence_transformers(model, "bfloat16"),
    "infinity": infinity,
    "llama.cpp": llama_cpp,
    "openvino bfloat16": lambda model: openvino(model, 16),
    "openvino int8 weights": lambda model: openvino(model, 8),
}


def main() -> None:
    """Load, then time one round for each line."""
    way, model, texts_file, vectors_file = sys.argv[1:]
    texts = json.loads(Path(texts_file).read_text(encoding="utf-8"))
    embed = WAYS[way](Path(model))
    embed(texts[:64])
    print("ready", flush=True)
    vectors = None
    for _ in sys.stdin:
        began = time.perf_counter()
        vectors = embed(texts)
        print(time.perf_counter() - began, flush=True)
    if vectors is not None:
        np.save(vectors_file, np.asarray(vectors, dtype=np.float32))


if __name__ == "__main__":
    main()
