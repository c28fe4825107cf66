"""Forward passes: padding, pooling, batches of like length; ours against the library's."""

import subprocess
import sys
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import CONFIGS, make_tiny_llm, needs_bfloat16, needs_vnni
from transformers import AutoModel

from llmemb import fused, tree_attention
from llmemb.forward import TransformersForward, length_batches, pad, pool
from llmemb.fused import FusedLlama
from llmemb.fused_int8 import Int8Llama

OPENING = [7, 8, 9, 10]
CPU = torch.device("cpu")
DTYPES = [torch.float32, pytest.param(torch.bfloat16, marks=needs_bfloat16)]


@pytest.mark.parametrize("pooling", ["mean", "last", "eos"])
def test_pooling_is_the_same_under_either_padding_side(pooling: str) -> None:
    states = torch.randn(2, 3, 4)
    right = torch.zeros(2, 5, 4)
    right[:, :3] = states
    left = torch.zeros(2, 5, 4)
    left[:, 2:] = states
    mask = torch.tensor([[1, 1, 1, 0, 0]] * 2)
    found = pool(right, mask, pooling)
    assert torch.allclose(found, pool(left, mask.flip(1), pooling))
    assert torch.allclose(found, states.mean(1) if pooling == "mean" else states[:, 2])


@given(st.lists(st.integers(1, 200), max_size=60), st.integers(1, 1000))
def test_batches_hold_each_item_once_within_the_budget(lengths: list[int], budget: int) -> None:
    batches = length_batches(lengths, budget)
    assert sorted(chain.from_iterable(batches)) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or max(lengths[i] for i in batch) * len(batch) <= budget


def test_padding_is_masked() -> None:
    batch = pad([[5, 6, 7], [8]], pad_id=3)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 3, 3]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]


def texts(rng: np.random.Generator, lengths: list[int], opening: list[int]) -> list[list[int]]:
    return [[*opening, *rng.integers(4, 100, length).tolist()] for length in lengths]


@pytest.mark.parametrize("pooling", ["mean", "last", "eos"])
@pytest.mark.parametrize("opening", [[], OPENING])
@pytest.mark.parametrize("lengths", [[5], [3, 40, 1, 17, 17, 90]])
def test_the_fused_pass_is_the_librarys(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    pooling: str,
    opening: list[int],
    lengths: list[int],
) -> None:
    monkeypatch.setattr(fused, "ROWS", 50)  # several products and groups
    monkeypatch.setattr(tree_attention, "GROUP_TOKENS", 50)
    model = AutoModel.from_pretrained(make_tiny_llm(tmp_path)).eval().requires_grad_(False)
    assert FusedLlama.fits(model, CPU)
    batch = texts(np.random.default_rng(0), lengths, OPENING)
    expected = TransformersForward(model, 0).pooled(batch, pooling)
    found = FusedLlama(model, opening).pooled(batch, pooling)
    assert found.dtype == torch.float32
    assert torch.allclose(found, expected, atol=2e-5)


def test_texts_without_the_opening_are_read_whole(tmp_path: Path) -> None:
    model = AutoModel.from_pretrained(make_tiny_llm(tmp_path)).eval().requires_grad_(False)
    batch = [[*OPENING, 20, 21], [*OPENING[:3], 20, 21], OPENING, [5]]
    expected = TransformersForward(model, 0).pooled(batch, "mean")
    assert torch.allclose(FusedLlama(model, OPENING).pooled(batch, "mean"), expected, atol=2e-5)


@pytest.mark.parametrize("family", CONFIGS)
def test_other_families_are_left_to_the_library(tmp_path: Path, family: str) -> None:
    model = AutoModel.from_pretrained(make_tiny_llm(tmp_path, family))
    assert FusedLlama.fits(model, CPU) == (family == "llama")
    assert not FusedLlama.fits(model, torch.device("cuda"))


def test_bfloat16_is_left_to_the_library_where_the_cpu_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_tiny_llm(tmp_path)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    assert FusedLlama.fits(AutoModel.from_pretrained(folder, dtype=torch.float32), CPU)
    assert not FusedLlama.fits(AutoModel.from_pretrained(folder, dtype=torch.bfloat16), CPU)


@needs_vnni
@pytest.mark.parametrize("dtype", DTYPES)
def test_8_bits_are_close_to_the_exact_pass(tmp_path: Path, dtype: torch.dtype) -> None:
    model = AutoModel.from_pretrained(make_tiny_llm(tmp_path), dtype=dtype).eval()
    batch = texts(np.random.default_rng(0), [3, 40, 1, 17, 17, 90], OPENING)
    exact = FusedLlama(model.requires_grad_(False), OPENING).pooled(batch, "mean")
    found = Int8Llama(model, OPENING).pooled(batch, "mean")
    assert not torch.equal(found, exact)
    assert torch.cosine_similarity(found, exact).min() > 0.999


@needs_vnni
def test_texts_without_the_opening_stay_exact_under_8_bits(tmp_path: Path) -> None:
    model = AutoModel.from_pretrained(make_tiny_llm(tmp_path)).eval().requires_grad_(False)
    batch = texts(np.random.default_rng(0), [3, 40], [])
    exact = FusedLlama(model, OPENING).pooled(batch, "mean")
    assert torch.equal(Int8Llama(model, OPENING).pooled(batch, "mean"), exact)


@pytest.mark.parametrize("kind", [FusedLlama, pytest.param(Int8Llama, marks=needs_vnni)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_text_alone_and_in_any_company_has_the_same_vector(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    dtype: torch.dtype,
    kind: type[FusedLlama],
) -> None:
    monkeypatch.setattr(fused, "ROWS", 60)
    monkeypatch.setattr(tree_attention, "GROUP_TOKENS", 60)
    model = AutoModel.from_pretrained(make_tiny_llm(tmp_path), dtype=dtype).eval()
    forward = kind(model.requires_grad_(False), OPENING)
    rng = np.random.default_rng(1)
    pool_of_texts = texts(rng, rng.integers(1, 60, 40).tolist(), OPENING)
    alone = torch.cat([forward.pooled([text], "mean") for text in pool_of_texts])
    for _ in range(50):
        chosen = rng.permutation(40)[: rng.integers(1, 41)]
        found = forward.pooled([pool_of_texts[i] for i in chosen], "mean")
        cosines = torch.cosine_similarity(found, alone[chosen])
        assert cosines.min() > (0.999999 if dtype == torch.float32 else 0.999)


MANY_SIZES = """
import sys, psutil, torch, numpy as np
from transformers import AutoModel
from llmemb.device import best_dtype
from llmemb.fused import FusedLlama
dtype = best_dtype(torch.device("cpu"))
model = FusedLlama(AutoModel.from_pretrained(sys.argv[1], dtype=dtype).eval())
rng = np.random.default_rng(0)
def pass_some(batches):
    for _ in range(batches):
        lengths = rng.integers(3, 60, rng.integers(5, 60))
        model.pooled([rng.integers(4, 100, n).tolist() for n in lengths], "mean")
    return psutil.Process().memory_full_info().uss
print(-pass_some(100) + pass_some(200))
"""


def test_batches_of_ever_other_sizes_take_no_more_memory(tmp_path: Path) -> None:
    command = [sys.executable, "-c", MANY_SIZES, str(make_tiny_llm(tmp_path))]
    grown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert int(grown) < 50 * 2**20
