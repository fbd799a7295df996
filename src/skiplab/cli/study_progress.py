"""Progress of a study on stderr: bars with the remaining time, or one line per finished run without a terminal."""

import time
from collections.abc import Sequence
from datetime import timedelta

from rich.console import Console
from rich.progress import TaskID, TextColumn

from skiplab.cli.console import TimedProgress
from skiplab.study.grid import Cell


class StudyBars(TimedProgress):
    """One bar for all runs and one for each running one. Use as a context manager."""

    def __init__(self, console: Console) -> None:
        share = TextColumn("{task.percentage:>3.0f} %")
        super().__init__(console, share, TextColumn("{task.fields[text]}", style="dim"))
        self.tasks: dict[str, TaskID] = {}
        self.shares: dict[str, float] = {}

    def begin(self, cells: Sequence[Cell], finished: Sequence[Cell]) -> None:
        """Starts the bar of all runs."""
        self.cells, self.done, self.began = len(cells), len(finished), time.monotonic()
        if finished:
            self.console.print(f"{len(finished)} of {len(cells)} runs are already finished and are not repeated")
        # Finished runs do not count, since they would distort the estimate of the remaining time.
        cost = sum(cell.cost for cell in cells) - sum(cell.cost for cell in finished)
        self.overall = self.progress.add_task(
            "all runs", total=cost or 1, completed=0 if cost else 1, text=self._count()
        )

    def advance(self, cell: Cell, share: float, text: str) -> None:
        """Advances the bar of one run to a share from 0 to 1."""
        if cell.label not in self.tasks:
            self.tasks[cell.label] = self.progress.add_task(cell.label, total=1, text="")
        self._add_share(cell, share)
        self.progress.update(self.tasks[cell.label], completed=share, text=text)

    def finish(self, cell: Cell) -> None:
        """Removes the bar of a finished run."""
        self.done += 1
        self._add_share(cell, 1.0)
        self.progress.update(self.overall, text=self._count())
        if cell.label in self.tasks:
            self.progress.remove_task(self.tasks.pop(cell.label))
        if not self.console.is_terminal:
            self.line(f"{cell.label} finished ({self._count()}{self._left()})")

    def _add_share(self, cell: Cell, share: float) -> None:
        before = self.shares.get(cell.label, 0.0)
        self.shares[cell.label] = max(share, before)
        self.progress.advance(self.overall, cell.cost * (self.shares[cell.label] - before))

    def _count(self) -> str:
        collecting = ", collecting their tables" if self.done == self.cells else ""
        return f"{self.done} of {self.cells} runs{collecting}"

    def _left(self) -> str:
        """The remaining time, in proportion to the time of the finished work."""
        task = self.progress.tasks[self.overall]
        if not task.completed or not task.total or self.done == self.cells:
            return ""
        seconds = (time.monotonic() - self.began) * (task.total - task.completed) / task.completed
        return f", about {timedelta(seconds=round(seconds))} left"
