"""The command line: what its values are it says, and a shell can complete."""

import os
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

import trainer.cli
from llmemb.srs import BackboneName
from trainer.data.prepare import SOURCES
from trainer.presets import PRESETS
from trainer.tracking import NO_TRACKER, TRACKERS


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("llmemb tr", "train"),
        ("llmemb data prepare movi", "movielens"),
        ("llmemb train data/x --preset def", "default"),
        ("llmemb train data/x --srs gru", "gru4rec"),
        ("llmemb train data/x --track ml", "mlflow"),
    ],
)
def test_a_shell_completes_commands_and_values(typed: str, completed: str) -> None:
    asked = {
        "_LLMEMB_COMPLETE": "complete_bash",
        "COMP_WORDS": typed,
        "COMP_CWORD": str(len(typed.split()) - 1),
    }
    done = subprocess.run(
        [Path(sys.executable).with_name("llmemb")],
        env={**os.environ, **asked},
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == [completed]


def test_the_values_that_help_names_are_those_there_are() -> None:
    assert set(trainer.cli.SOURCES) == set(SOURCES)
    assert set(trainer.cli.PRESETS) == set(PRESETS)
    assert set(trainer.cli.BACKBONES) == set(get_args(BackboneName))
    assert set(trainer.cli.TRACKERS) == {*TRACKERS, NO_TRACKER}
