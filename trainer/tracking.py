"""Training that can be watched while it runs: TensorBoard, MLflow or Weights & Biases, a run a stage."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Console

from llmemb.errors import SettingsError
from trainer.stages import working_folder

TRACKERS = ("tensorboard", "mlflow", "wandb")  # each the name of what is imported, too
NO_TRACKER = "none"
PROJECT = "llmemb"  # in Weights & Biases

Log = Callable[[int, Mapping[str, float]], None]


class Tracking:
    """Where a training run's figures go besides the terminal.

    Where MLflow and Weights & Biases are, and who may write there, their own environment variables say
    (``MLFLOW_TRACKING_URI``, ``WANDB_API_KEY``, ``WANDB_MODE``, ...). TensorBoard's files lie in
    the working folder. A tracker that fails is told of once; training goes on without it.

    Raises:
        SettingsError: there is no such tracker, or it is not installed.
    """

    def __init__(
        self, tracker: str, out: Path, settings: Mapping[str, Any], console: Console
    ) -> None:
        """Take a tracker's name, the bundle to be written, the preset's settings, and whom to tell."""
        choices = (*TRACKERS, NO_TRACKER)
        if tracker not in choices:
            raise SettingsError(f"--track {tracker}: choose one of {', '.join(choices)}")
        if tracker != NO_TRACKER and find_spec(tracker) is None:
            extra = "train" if tracker == "tensorboard" else tracker
            raise SettingsError(f"--track {tracker} needs a library: pip install 'llmemb[{extra}]'")
        self.tracker = tracker
        self.bundle = out.resolve().name
        self.folder = working_folder(out.resolve()) / "tensorboard"
        self.settings = _flat(settings)
        self.console = console

    @contextmanager
    def run(self, stage: str) -> Iterator[Log]:
        """Yield what logs a stage's figures by step; each stage is a run of its own."""
        tracker = self._attempt(lambda: self._start(stage))

        def log(step: int, values: Mapping[str, float]) -> None:
            # MLflow takes no @ in a name.
            named = {name.replace("@", "_at_"): value for name, value in values.items()}
            self._attempt(lambda: tracker.log(named, step))

        yield log
        self._attempt(lambda: tracker.finish())

    def _attempt(self, call: Callable[[], Any]) -> Any:
        """Return what the tracker's call does, or nothing where one has failed already."""
        if self.tracker == NO_TRACKER:
            return None
        try:
            return call()
        except Exception as error:  # noqa: BLE001 each tracker has errors of its own
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            self.console.print(f"not tracked by {self.tracker}: {reason}", markup=False)
            self.tracker = NO_TRACKER
            return None

    def _start(self, stage: str) -> Any:
        from accelerate import PartialState, tracking  # slow to import

        PartialState()  # asked by every tracker whether it is the main process
        if self.tracker == "tensorboard":
            tracker = tracking.TensorBoardTracker(stage, self.folder)
            tracker.start()
            return tracker
        if self.tracker == "mlflow":
            tracker = tracking.MLflowTracker(self.bundle, run_name=stage)
        else:
            tracker = tracking.WandBTracker(PROJECT, name=stage, group=self.bundle)
        tracker.start()
        tracker.store_init_configuration(self.settings)
        return tracker


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings by their dotted names, lists as text."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = str(value) if isinstance(value, list) else value
    return flat
