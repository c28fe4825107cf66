"""What a person sees while a training run works: one line a stage, with its rate and time left."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

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

from trainer.fit import Epoch
from trainer.steps import Step


class Progress:
    """Progress bars on standard error; plain lines where that is not a terminal."""

    def __init__(self, console: Console) -> None:
        self.console = console

    @contextmanager
    def steps(self, stage: str) -> Iterator[Callable[[Step], None]]:
        """Show optimiser steps with loss and items a second."""
        with self._bar(stage, None) as (bars, task):

            def report(step: Step) -> None:
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
        with self._bar(stage, None) as (bars, task):

            def report(epoch: Epoch) -> None:
                done = (
                    f"loss {epoch.loss:.4f}  NDCG@10 {epoch.ndcg:.4f} "
                    f"(best: epoch {epoch.best})  {epoch.seconds:.1f} s/epoch"
                )
                bars.update(task, completed=epoch.epoch + 1, detail=done)
                if not self.console.is_terminal:
                    self.console.print(f"{stage}: epoch {epoch.epoch}  {done}")

            yield report

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
