"""One way to embed texts, in a process of its own.

    python encode_workers.py WAY MODEL TEXTS VECTORS

Run by ``encode.py``, each way with the Python of an environment that has what it needs. Prints
``ready``; a line ``START STEP`` on standard input asks for every STEP-th text from START on, and is
answered with the seconds. The vectors of all go to VECTORS at the end (float32, NumPy).
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


def llmemb(model: Path, precision: Any = "auto") -> Embed:
    """LLMEmb: the fused forward pass, the opening of the prompts computed once."""
    import torch
    from transformers import AutoTokenizer

    from llmemb.base_model import BaseModel
    from llmemb.encoder import Encoder, EncoderSettings, load_base

    opening = os.environ["OPENING"]
    llm = load_base(BaseModel("benchmark", model), torch.bfloat16)
    tokenizer = AutoTokenizer.from_pretrained(model)
    settings = EncoderSettings(max_tokens=MAX_TOKENS)
    return Encoder(llm, tokenizer, settings, torch.device("cpu"), opening, precision).encode


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
    import tempfile

    from infinity_emb import AsyncEmbeddingEngine, EngineArgs
    from portable_model import portable_model

    loop = asyncio.new_event_loop()
    arguments = EngineArgs(
        model_name_or_path=str(portable_model(model, Path(tempfile.mkdtemp(), "model"))),
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


def llama_cpp() -> Embed:
    """llama.cpp, from the GGUF file that LLAMA_GGUF names, written again in bfloat16: its fastest here."""
    import ctypes
    import tempfile

    import llama_cpp as library

    gguf = Path(tempfile.mkdtemp(), "bfloat16.gguf")
    options = library.llama_model_quantize_default_params()
    options.ftype, options.allow_requantize = library.LLAMA_FTYPE_MOSTLY_BF16, True
    source = os.environ["LLAMA_GGUF"].encode()
    library.llama_model_quantize(source, str(gguf).encode(), ctypes.byref(options))
    # A larger context or batch is slower: every text then looks at the cells of all others.
    sizes = dict.fromkeys(("n_ctx", "n_batch", "n_ubatch"), 512)
    threads = dict.fromkeys(("n_threads", "n_threads_batch"), THREADS)
    pooling = library.LLAMA_POOLING_TYPE_MEAN
    llm = library.Llama(
        str(gguf), embedding=True, pooling_type=pooling, verbose=False, **sizes, **threads
    )
    return lambda texts: np.array(llm.embed(texts, normalize=False), dtype=np.float32)


def openvino_int8(model: Path) -> Embed:
    """OpenVINO, weights and activations in 8 bits, calibrated on the texts: its fastest here.

    Converted here: what optimum-intel 2.2 exports of a headless Llama gives NaN or other vectors.
    """
    import nncf
    import openvino as ov
    import torch
    from transformers import AutoModel, AutoTokenizer

    class Pooled(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.llm = AutoModel.from_pretrained(model, dtype=torch.float32).eval()

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            rows, length = input_ids.shape
            ahead = torch.ones(length, length).triu(1)[None, None] * -1e4
            hidden = self.llm(
                input_ids=input_ids,
                attention_mask=ahead.expand(rows, 1, length, length),
                position_ids=torch.arange(length)[None].expand(rows, length),
                use_cache=False,
            ).last_hidden_state
            inside = attention_mask[..., None].float()
            return (hidden * inside).sum(1) / inside.sum(1)

    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token

    def tokenized(texts: list[str], tensors: str = "np") -> dict[str, Any]:
        batch = tokenizer(
            texts, padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors=tensors
        )
        return {name: batch[name] for name in ("input_ids", "attention_mask")}

    example = tokenized(["a b c", "d e f"], "pt")
    converted = ov.convert_model(Pooled(), example_input=example)
    texts = json.loads(Path(sys.argv[3]).read_text(encoding="utf-8"))
    calibration = nncf.Dataset([tokenized([text]) for text in texts[:: len(texts) // 40]])
    converted = nncf.quantize(converted, calibration, model_type=nncf.ModelType.TRANSFORMER)
    settings = {"INFERENCE_PRECISION_HINT": "bf16", "INFERENCE_NUM_THREADS": THREADS}
    llm = ov.Core().compile_model(converted, "CPU", settings)

    def embed(texts: list[str]) -> Any:
        order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
        vectors: Any = [None] * len(texts)
        for start in range(0, len(order), 16):  # batches of 8 and 32 were slower
            rows = order[start : start + 16]
            for row, vector in zip(rows, llm(tokenized([texts[i] for i in rows]))[0], strict=True):
                vectors[row] = vector
        return np.stack(vectors)

    return embed


WAYS: dict[str, Callable[[Path], Embed]] = {
    "llmemb": llmemb,
    "llmemb int8": lambda model: llmemb(model, "int8"),
    "transformers bfloat16": transformers_bfloat16,
    "sentence-transformers float32": lambda model: sentence_transformers(model, "float32"),
    "sentence-transformers bfloat16": lambda model: sentence_transformers(model, "bfloat16"),
    "infinity": infinity,
    "llama.cpp": lambda _: llama_cpp(),
    "openvino int8": openvino_int8,
}


def main() -> None:
    """Load, then embed what each line asks for."""
    way, model, texts_file, vectors_file = sys.argv[1:]
    texts = json.loads(Path(texts_file).read_text(encoding="utf-8"))
    embed = WAYS[way](Path(model))
    vectors = np.tile(np.asarray(embed(texts[:64])[:1], dtype=np.float32), (len(texts), 1))
    print("ready", flush=True)
    for line in sys.stdin:
        start, step = map(int, line.split())
        began = time.perf_counter()
        found = embed(texts[start::step])
        print(time.perf_counter() - began, flush=True)
        vectors[start::step] = found
    np.save(vectors_file, vectors)
    os._exit(0)  # some libraries leave threads behind that would never end


if __name__ == "__main__":
    main()
