"""What ``llmemb data prepare`` read, kept, dropped and noticed; nothing here decides what is wrong."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import polars as pl
from rich.console import Group
from rich.table import Table
from rich.text import Text

Rows = Literal["items", "interactions"]

FIRST_PLACES = 5  # of each kind of problem that the report names
REASON_CHARS = 200  # an id or an attribute name inside a reason can be a megabyte long


def one_line(text: str, limit: int = REASON_CHARS) -> str:
    """Return the text on one line, cut to ``limit`` characters, fit for a terminal and for JSON."""
    words = " ".join(text[: 4 * limit].split())
    line = "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in words)
    return line if len(line) <= limit else line[: limit - 1] + "…"


@dataclass(frozen=True)
class Place:
    """Where a row is and what is the matter with it.

    Attributes:
        file: name inside the raw folder.
        line: of a text file, or row of a Parquet file; the first is 1.
    """

    file: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.reason}"


@dataclass
class Problem:
    """Rows that share one problem.

    Attributes:
        rows: what the rows are.
        kind: the problem, in words.
        dropped: whether the rows were left out; otherwise they are kept and only worth knowing.
        by_rule: whether a reader's rule left them out, with nothing wrong: ``--strict`` allows it.
        first: the first ``FIRST_PLACES`` of them.
    """

    rows: Rows
    kind: str
    dropped: bool
    by_rule: bool = False
    count: int = 0
    first: list[Place] = field(default_factory=list)


@dataclass
class Report:
    """Counts of what was read and kept, and every problem with its first places.

    Attributes:
        kept: number of ``items``, ``users`` and ``interactions`` in the prepared data.
        problems: by what the rows are and the kind of problem, in order of first appearance.
    """

    kept: dict[str, int] = field(default_factory=dict)
    problems: dict[tuple[Rows, str], Problem] = field(default_factory=dict)

    def drop(
        self, rows: Rows, kind: str, file: str, line: int, reason: str, *, by_rule: bool = False
    ) -> None:
        """Count one row that is left out: for a fault of its own, or by a rule of the reader."""
        self._add(rows, kind, True, 1, [Place(file, line, one_line(reason))])
        self.problems[rows, kind].by_rule = by_rule

    def drop_interactions(
        self,
        frame: pl.DataFrame,
        bad: pl.Series,
        kind: str,
        file: str,
        reason: Callable[[dict[str, Any]], str],
    ) -> pl.DataFrame:
        """Return the frame without its bad rows, which are counted.

        ``frame`` has a column ``line``, ``bad`` is boolean with one value a row, and ``reason``
        says what is wrong with a row, given as a mapping.
        """
        if not bad.any():
            return frame
        dropped = frame.filter(bad).sort("line")
        places = [
            Place(file, row["line"], one_line(reason(row)))
            for row in dropped.head(FIRST_PLACES).iter_rows(named=True)
        ]
        self._add("interactions", kind, True, dropped.height, places)
        return frame.filter(~bad)

    def note(self, rows: Rows, kind: str, count: int, first: Iterable[Place]) -> None:
        """Count rows that are kept but worth knowing of; nothing happens where there is none."""
        if count:
            self._add(rows, kind, False, count, first)

    def merge(self, problems: Iterable[Problem]) -> None:
        """Count the problems of another report, of rows behind those of this one."""
        for problem in problems:
            self._add(problem.rows, problem.kind, problem.dropped, problem.count, problem.first)
            self.problems[problem.rows, problem.kind].by_rule = problem.by_rule

    def dropped(self, rows: Rows) -> list[Problem]:
        """Return the problems for which such rows were left out."""
        return [p for p in self.problems.values() if p.dropped and p.rows == rows]

    def faults(self) -> list[Problem]:
        """Return the problems for which rows had to be left out: items first, none by rule."""
        problems = [*self.dropped("items"), *self.dropped("interactions")]
        return [problem for problem in problems if not problem.by_rule]

    def summary(self) -> str:
        """Return what had to be dropped in a few words, with the first place; empty if nothing had."""
        problems = self.faults()
        if not problems:
            return ""
        counts = ", ".join(f"{problem.count:,} {problem.kind}" for problem in problems)
        return f"dropped: {counts}; the first is {problems[0].first[0]}"

    def read(self, rows: Rows) -> int:
        """Return how many such rows the raw files hold: those kept and those dropped."""
        return self.kept.get(rows, 0) + sum(problem.count for problem in self.dropped(rows))

    def to_json(self) -> dict[str, Any]:
        """Return the report as ``dataset.json`` keeps it."""
        problems = [
            {
                "rows": problem.rows,
                "kind": problem.kind,
                "dropped": problem.dropped,
                "count": problem.count,
                "first": [str(place) for place in problem.first],
            }
            for problem in self.problems.values()
        ]
        read = {"items": self.read("items"), "interactions": self.read("interactions")}
        return {"read": read, "kept": self.kept, "problems": problems}

    def render(self) -> Group:
        """Return the report for a terminal."""
        sizes = Table("", *self.kept, title="prepared", title_justify="left")
        read = {"items": self.read("items"), "interactions": self.read("interactions")}
        sizes.add_row("read", *(f"{read[name]:,}" if name in read else "" for name in self.kept))
        sizes.add_row("kept", *(f"{count:,}" for count in self.kept.values()))
        if not self.problems:
            return Group(sizes, Text("No row had a problem."))
        problems = Table("rows", "problem", "count", "", "first", title="noticed")
        problems.title_justify = "left"
        for problem in self.problems.values():
            verdict = Text("dropped", style="yellow") if problem.dropped else Text("kept")
            if problem.by_rule:
                verdict = Text("left out")
            first = Text("\n".join(str(place) for place in problem.first))
            problems.add_row(problem.rows, problem.kind, f"{problem.count:,}", verdict, first)
        return Group(sizes, problems)

    def _add(
        self, rows: Rows, kind: str, dropped: bool, count: int, first: Iterable[Place]
    ) -> None:
        problem = self.problems.setdefault((rows, kind), Problem(rows, kind, dropped))
        problem.count += count
        problem.first = [*problem.first, *first][:FIRST_PLACES]
