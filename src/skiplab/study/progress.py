"""Progress of a grid on stderr: bars and an estimate of the time left, or plain lines without a terminal."""

import time
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from skiplab.study.grid import Cell


class Bars:
    """One bar for the whole grid and one for each cell at work. Use as a context manager."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.fields[text]}", style="dim"),
            TimeElapsedColumn(),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.tasks: dict[str, TaskID] = {}
        self.shares: dict[str, float] = {}
        self.started = time.monotonic()

    def __enter__(self) -> "Bars":
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def begin(self, cells: Sequence[Cell], finished: Sequence[Cell]) -> None:
        self.cells, self.done = len(cells), len(finished)
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
            seconds = time.monotonic() - self.started
            self.console.print(f"[{seconds:6.1f} s] {cell.label} finished ({self._count()})", highlight=False)

    def _grow(self, cell: Cell, share: float) -> None:
        before = self.shares.get(cell.label, 0.0)
        self.shares[cell.label] = max(share, before)
        self.progress.advance(self.whole, cell.cost * (self.shares[cell.label] - before))

    def _count(self) -> str:
        return f"{self.done} of {self.cells} runs"
