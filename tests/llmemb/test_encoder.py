"""Prompts to vectors: pooling, truncation, batching, families."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import CONFIGS, make_tiny_llm
from transformers import AutoTokenizer

from llmemb.base_model import BaseModel, find_base_model
from llmemb.device import best_dtype
from llmemb.encoder import Encoder, EncoderSettings, load_base
from llmemb.errors import ModelError

PROMPTS = [
    "title is Toy Story",
    "a",
    "year is 1995; genres is Comedy, drama; title is alpha beta",
    "7",
]


def make_encoder(folder: Path, **settings: object) -> Encoder:
    model = load_base(BaseModel("tiny", folder), torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return Encoder(model, tokenizer, EncoderSettings(**settings), torch.device("cpu"))


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("pooling", ["mean", "last", "eos"])
def test_a_vector_does_not_depend_on_its_batch(tmp_path: Path, family: str, pooling: str) -> None:
    encoder = make_encoder(make_tiny_llm(tmp_path, family), pooling=pooling)
    together = encoder.encode(PROMPTS)
    assert together.shape == (4, 32)
    assert together.dtype == np.float16
    for prompt, vector in zip(PROMPTS, together, strict=True):
        assert encoder.encode([prompt])[0] == pytest.approx(vector, abs=2e-3)


def test_the_tokenizers_own_padding_side_does_not_matter(tmp_path: Path) -> None:
    right = make_encoder(make_tiny_llm(tmp_path / "r", padding_side="right"))
    left = make_encoder(make_tiny_llm(tmp_path / "l", padding_side="left"))
    assert np.array_equal(right.encode(PROMPTS), left.encode(PROMPTS))


def test_a_long_prompt_is_cut_and_says_so(tmp_path: Path) -> None:
    encoder = make_encoder(make_tiny_llm(tmp_path), max_tokens=8)
    short, long = encoder.tokenize(["7", "alpha beta gamma " * 50])
    assert (len(short.ids), short.truncated) == (1, False)
    assert (len(long.ids), long.truncated) == (8, True)


def test_eos_is_appended_even_to_a_cut_prompt(tmp_path: Path) -> None:
    encoder = make_encoder(make_tiny_llm(tmp_path), pooling="eos", max_tokens=8)
    for tokens in encoder.tokenize(["7", "alpha " * 50]):
        assert tokens.ids[-1] == encoder.tokenizer.eos_token_id
        assert len(tokens.ids) <= 8


def test_progress_counts_every_prompt(tmp_path: Path) -> None:
    done: list[int] = []
    make_encoder(make_tiny_llm(tmp_path)).encode(PROMPTS * 20, done.append)
    assert sum(done) == 80


def test_the_dtype_is_one_that_the_machine_computes() -> None:
    assert best_dtype(torch.device("cpu")) in (torch.bfloat16, torch.float32)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("/no/such/folder", "is not there"),
        ("no/such/folder", "is not there"),
        ("no-such-model", "is not there"),
        ("../x", "is not there"),
    ],
)
def test_a_base_model_that_is_not_there_is_named(source: str, reason: str) -> None:
    with pytest.raises(ModelError, match=reason) as caught:
        find_base_model(source)
    assert source in str(caught.value)


def test_a_hub_that_cannot_be_reached_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="neither a folder here nor to be had from the hub"):
        find_base_model("nobody/nothing-of-this-name")


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    make_tiny_llm(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"no \*\.safetensors weights"):
        find_base_model(str(tmp_path))
    (tmp_path / "config.json").unlink()
    with pytest.raises(ModelError, match=r"no config\.json"):
        find_base_model(str(tmp_path))


def test_the_hash_tells_models_apart(tmp_path: Path) -> None:
    one = find_base_model(str(make_tiny_llm(tmp_path / "a")))
    same = find_base_model(str(make_tiny_llm(tmp_path / "b")))
    other = find_base_model(str(make_tiny_llm(tmp_path / "c", "qwen2")))
    assert one.sha256 == same.sha256 != other.sha256


def test_a_damaged_base_model_is_one_line(tmp_path: Path) -> None:
    (make_tiny_llm(tmp_path) / "config.json").write_text("{}")
    with pytest.raises(ModelError, match=str(tmp_path)):
        load_base(find_base_model(str(tmp_path)), torch.float32)


MANY_ENCODERS = """
import sys, psutil
from pathlib import Path
from llmemb.bundle import read_bundle
bundle = read_bundle(Path(sys.argv[1]))
words = 0
def load_some(times):
    global words
    for _ in range(times):
        encoder = bundle.load_encoder()
        prompts = [f"word{words + i}" for i in range(5000)]
        words += len(prompts)
        for start in range(0, len(prompts), 10):
            encoder.tokenize(prompts[start : start + 10])
    return psutil.Process().memory_full_info().uss
print(-load_some(5) + load_some(15))
"""


def test_an_encoder_that_is_gone_leaves_no_words_in_memory(tiny_bundle: Path) -> None:
    command = [sys.executable, "-c", MANY_ENCODERS, str(tiny_bundle)]
    grown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert int(grown) < 5 * 2**20
