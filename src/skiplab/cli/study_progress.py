"""Progress of a grid on stderr: bars and an estimate of the time left, or plain lines without a terminal."""

import time
from collections.abc import Sequence
from datetime import timedelta

from rich.console import Console
from rich.progress import TaskID, TextColumn

from skiplab.cli.render import TimedProgress
from skiplab.study.grid import Cell


class Bars(TimedProgress):
    """One bar for the whole grid and one for each cell at work. Use as a context manager."""

    def __init__(self, console: Console) -> None:
        share = TextColumn("{task.percentage:>3.0f} %")
        super().__init__(console, share, TextColumn("{task.fields[text]}", style="dim"))
        self.tasks: dict[str, TaskID] = {}
        self.shares: dict[str, float] = {}

    def begin(self, cells: Sequence[Cell], finished: Sequence[Cell]) -> None:
        self.cells, self.done, self.began = len(cells), len(finished), time.monotonic()
        if finished:
            self.console.print(f"{len(finished)} of {len(cells)} runs are finished already and are not repeated")
        # Only work that is left counts, so that the estimate is not led astray by what was loaded.
        cost = sum(cell.cost for cell in cells) - sum(cell.cost for cell in finished)
        self.whole = self.progress.add_task("all runs", total=cost or 1, completed=0 if cost else 1, text=self._count())

    def advance(self, cell: Cell, share: float, text: str) -> None:
        if cell.label not in self.tasks:
            self.tasks[cell.label] = self.progress.add_task(cell.label, total=1, text="")
        self._grow(cell, share)
        self.progress.update(self.tasks[cell.label], completed=share, text=text)

    def finish(self, cell: Cell) -> None:
        self.done += 1
        self._grow(cell, 1.0)
        self.progress.update(self.whole, text=self._count())
        if cell.label in self.tasks:
            self.progress.remove_task(self.tasks.pop(cell.label))
        if not self.console.is_terminal:
            self.line(f"{cell.label} finished ({self._count()}{self._left()})")

    def _grow(self, cell: Cell, share: float) -> None:
        before = self.shares.get(cell.label, 0.0)
        self.shares[cell.label] = max(share, before)
        self.progress.advance(self.whole, cell.cost * (self.shares[cell.label] - before))

    def _count(self) -> str:
        collecting = ", putting their tables together" if self.done == self.cells else ""
        return f"{self.done} of {self.cells} runs{collecting}"

    def _left(self) -> str:
        """For plain lines: the time so far, times what is left over what is done of this command's work."""
        task = self.progress.tasks[self.whole]
        if not task.completed or not task.total or self.done == self.cells:
            return ""
        seconds = (time.monotonic() - self.began) * (task.total - task.completed) / task.completed
        return f", about {timedelta(seconds=round(seconds))} left"
