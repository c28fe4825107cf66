"""Training can be watched: by TensorBoard unless told otherwise, by MLflow or Weights & Biases if told."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from llmemb.errors import SettingsError
from trainer.fit import Epoch
from trainer.progress import Progress
from trainer.steps import Step
from trainer.tracking import Tracking

SETTINGS = {"seed": 0, "rat": {"loss": "softmax", "layers": [1, 2]}}


def trained(tracker: str, out: Path) -> str:
    """Report two steps and two epochs, as training does; return what was said in the terminal."""
    said = io.StringIO()
    console = Console(file=said, width=200)
    progress = Progress(console, Tracking(tracker, out, SETTINGS, console))
    with progress.steps("scft") as step:
        step(Step(1, 2, 0.5, 10.0))
        step(Step(2, 2, 0.25, 10.0))
    with progress.epochs("rat") as epoch:
        epoch(Epoch(0, 3.0, 0.01, 0, 1.0))
        epoch(Epoch(1, 2.0, 0.02, 1, 1.0))
    progress.evaluated(
        {
            protocol: {"tail": {"n": 3, "HR@10": 0.4, "NDCG@10": 0.2}}
            for protocol in ("full", "unseen", "sampled100")
        }
    )
    return said.getvalue()


def test_tensorboard_reads_every_stage(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trained("tensorboard", tmp_path / "films")

    def scalars(stage: str, name: str) -> list[tuple[int, float]]:
        events = EventAccumulator(str(tmp_path / "films.work/tensorboard" / stage)).Reload()
        return [(event.step, round(event.value, 4)) for event in events.Scalars(name)]

    assert scalars("scft", "loss") == [(1, 0.5), (2, 0.25)]
    assert scalars("rat", "NDCG_at_10") == [(0, 0.01), (1, 0.02)]
    assert scalars("evaluate", "full/tail/NDCG_at_10") == [(0, 0.2)]


def test_mlflow_has_a_run_for_each_stage_with_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # in place of a server
    mlflow.set_tracking_uri((tmp_path / "mlruns").as_uri())
    assert "not tracked" not in trained("mlflow", tmp_path / "films")
    experiment = mlflow.get_experiment_by_name("films")
    runs = mlflow.MlflowClient().search_runs([experiment.experiment_id])
    by_stage = {run.info.run_name: run.data for run in runs}
    assert set(by_stage) == {"scft", "rat", "evaluate"}
    assert by_stage["rat"].metrics == {"loss": 2.0, "NDCG_at_10": 0.02}
    assert by_stage["rat"].params["rat.loss"] == "softmax"


def test_weights_and_biases_keeps_runs_where_it_is_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    assert "not tracked" not in trained("wandb", tmp_path / "films")
    assert len(list(tmp_path.glob("wandb/offline-run-*"))) == 3


def test_a_tracker_that_fails_is_told_of_once_and_training_goes_on(tmp_path: Path) -> None:
    (tmp_path / "films.work").mkdir()
    (tmp_path / "films.work/tensorboard").write_text("a file where a folder should be")
    said = trained("tensorboard", tmp_path / "films")
    assert said.count("not tracked by tensorboard") == 1
    assert "rat: epoch 1" in said


def test_a_tracker_that_is_not_there_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SettingsError, match="choose one of tensorboard, mlflow, wandb, none"):
        Tracking("paper", tmp_path, {}, Console())
    monkeypatch.setattr("trainer.tracking.find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=r"pip install 'llmemb\[mlflow\]'"):
        Tracking("mlflow", tmp_path, {}, Console())
