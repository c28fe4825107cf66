"""Stages: made once for the same inputs, side by side for others."""

from pathlib import Path

import pytest

from trainer.stages import run_stage


def test_a_stage_is_made_once_for_each_of_its_inputs(tmp_path: Path) -> None:
    made: list[Path] = []

    def produce(folder: Path) -> None:
        made.append(folder)
        (folder / "result").write_text("x")

    first, key = run_stage(tmp_path, "rat", {"seed": 0}, produce)
    second, other = run_stage(tmp_path, "rat", {"seed": 1}, produce)
    again, _ = run_stage(tmp_path, "rat", {"seed": 0}, produce)
    assert made == [first, second]
    assert again == first != second
    assert key != other
    assert (first / "result").read_text() == "x"


def test_an_interrupted_stage_finds_what_it_left(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "checkpoint").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_stage(tmp_path, "rat", {}, fail)
    found: list[str] = []
    run_stage(tmp_path, "rat", {}, lambda folder: found.append((folder / "checkpoint").read_text()))
    assert found == ["half"]
