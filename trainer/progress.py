"""What a person sees while a training run works: one line a stage, with its rate and time left.

What is shown goes to the run's tracker, too.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars

from trainer.evaluate import PROTOCOLS
from trainer.fit import Epoch
from trainer.steps import Step
from trainer.tracking import Log, Tracking

TRACKED = ("HR@10", "NDCG@10")


class Progress:
    """Progress bars on standard error; plain lines where that is not a terminal."""

    def __init__(self, console: Console, tracking: Tracking | None = None) -> None:
        self.console = console
        self.tracking = tracking

    @contextmanager
    def steps(self, stage: str) -> Iterator[Callable[[Step], None]]:
        """Show optimiser steps with loss and items a second."""
        with self._tracked(stage) as log, self._bar(stage, None) as (bars, task):

            def report(step: Step) -> None:
                log(step.step, {"loss": step.loss, "items/s": step.items_per_second})
                done = f"loss {step.loss:.4f}  {step.items_per_second:.0f} items/s"
                bars.update(task, total=step.steps, completed=step.step, detail=done)
                if not self.console.is_terminal and step.step % 10 == 0:
                    self.console.print(f"{stage}: step {step.step}/{step.steps}  {done}")

            yield report

    @contextmanager
    def items(self, stage: str, total: int) -> Iterator[Callable[[int], None]]:
        """Show how many items are done, and how many a second."""
        with self._bar(stage, total) as (bars, task):

            def advance(count: int) -> None:
                bars.advance(task, count)
                speed = bars.tasks[0].speed
                bars.update(task, detail=f"{speed:.0f} items/s" if speed else "")

            yield advance

    @contextmanager
    def epochs(self, stage: str) -> Iterator[Callable[[Epoch], None]]:
        """Show epochs with loss and validation NDCG@10; how many there will be is not known."""
        with self._tracked(stage) as log, self._bar(stage, None) as (bars, task):

            def report(epoch: Epoch) -> None:
                log(epoch.epoch, {"loss": epoch.loss, "NDCG@10": epoch.ndcg})
                done = (
                    f"loss {epoch.loss:.4f}  NDCG@10 {epoch.ndcg:.4f} "
                    f"(best: epoch {epoch.best})  {epoch.seconds:.1f} s/epoch"
                )
                bars.update(task, completed=epoch.epoch + 1, detail=done)
                if not self.console.is_terminal:
                    self.console.print(f"{stage}: epoch {epoch.epoch}  {done}")

            yield report

    def evaluated(self, report: dict[str, Any]) -> None:
        """Track the test split's figures, of one row as ``llmemb evaluate`` reports it."""
        with self._tracked("evaluate") as log:
            for protocol in PROTOCOLS:
                for group, metrics in report[protocol].items():
                    values = {f"{protocol}/{group}/{name}": metrics[name] for name in TRACKED}
                    log(0, values)

    @contextmanager
    def _tracked(self, stage: str) -> Iterator[Log]:
        if self.tracking is None:
            yield lambda *_: None
            return
        with self.tracking.run(stage) as log:
            yield log

    @contextmanager
    def _bar(self, stage: str, total: int | None) -> Iterator[tuple[Bars, TaskID]]:
        columns = (
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.description:<14}"),
            BarColumn(bar_width=10),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[detail]}"),
        )
        if not self.console.is_terminal:
            self.console.print(f"{stage}: started")
        with Bars(*columns, console=self.console, disable=not self.console.is_terminal) as bars:
            task = bars.add_task(stage, total=total, detail="")
            yield bars, task
            bars.update(task, total=bars.tasks[0].completed)
        if not self.console.is_terminal:
            self.console.print(f"{stage}: done")
