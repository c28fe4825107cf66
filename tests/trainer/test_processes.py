"""Several processes that train together: the same result as one, from where another number left off."""

from pathlib import Path

import pytest
import torch
from scft_in_processes import DIES, PLACED, WAYS, fine_tune, launch, losses, vectors
from tiny import make_tiny_llm

from llmemb.errors import SettingsError
from trainer import processes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process and what two, of one launch, have made of the same LLM."""
    folder = tmp_path_factory.mktemp("processes")
    base = make_tiny_llm(folder / "llm")
    for way, changes in WAYS.items():
        fine_tune(folder / "one" / way, base, **changes)
    fine_tune(folder / "begun by one", base, dies=DIES)
    launch(folder)
    fine_tune(folder / "begun by two", base)
    return folder


def assert_alike(folder: Path, run: Path, other: Path) -> None:
    """Check the loss of every step to 1e-4 and every vector to a cosine of .9999."""
    assert losses(run) == pytest.approx(losses(other), abs=1e-4)
    base = folder / "llm"
    assert (vectors(run, base) * vectors(other, base)).sum(1).min() > 0.9999


@pytest.mark.parametrize("way", WAYS)
def test_two_processes_learn_what_one_learns(folder: Path, way: str) -> None:
    assert_alike(folder, folder / "two" / way, folder / "one" / way)


@pytest.mark.parametrize("way", [way for way in WAYS if PLACED[way]])
def test_a_sharded_llm_and_a_gradient_cache_change_nothing(folder: Path, way: str) -> None:
    assert_alike(folder, folder / "placed" / way, folder / "one" / way)


@pytest.mark.parametrize("begun", ["begun by one", "begun by two"])
def test_another_number_of_processes_goes_on(folder: Path, begun: str) -> None:
    assert_alike(folder, folder / begun, folder / "one" / "infonce")


def test_dropout_is_resumed_to_the_same_weights(folder: Path) -> None:
    whole, again = (
        (folder / name / "encoder" / "adapter_model.safetensors").read_bytes()
        for name in ("dropout", "dropout again")
    )
    assert whole == again


def test_a_batch_that_cannot_be_shared_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "count", lambda: 3)
    with pytest.raises(SettingsError, match="batch of 8 items cannot be shared equally by 3"):
        fine_tune(tmp_path, make_tiny_llm(tmp_path / "llm"))


def test_four_bits_are_refused_where_there_is_no_gpu(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    for changes, reason in (({}, "needs a CUDA GPU"), ({"shard": True}, "do not go together")):
        with pytest.raises(SettingsError, match=reason):
            fine_tune(tmp_path, make_tiny_llm(tmp_path / "llm"), qlora=True, **changes)


@pytest.mark.parametrize("way", ["FSDP", "DEEPSPEED"])
def test_a_launchers_own_sharding_is_refused(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"ACCELERATE_USE_{way}", "true")
    with pytest.raises(SettingsError, match=r"set scft\.shard=true"):
        processes.start()
