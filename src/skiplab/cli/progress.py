"""A bar on stderr for several trainings one after another, or a line for each without a terminal."""

import time
from types import TracebackType
from typing import Any

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from skiplab import terminal
from skiplab.cli.trials import Trial, percent


class Bar:
    """Use as a context manager."""

    def __init__(self, epochs: int, runs: int) -> None:
        self.console, self.epochs, self.over = terminal.stderr(), epochs, 0
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[text]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(compact=True),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self.task = self.progress.add_task("training", total=epochs * runs, text="")
        self.started = time.monotonic()

    def __enter__(self) -> "Bar":
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def epoch(self, seed: int, row: dict[str, Any]) -> None:
        """The epoch's row of the history."""
        done = f"epoch {row['epoch']} of {self.epochs}"
        text = f"{done}, loss {row['train_loss']:.3g}, test error {percent(row['test_error'])}"
        completed = self.over * self.epochs + row["epoch"]
        self.progress.update(self.task, description=f"seed {seed}", completed=completed, text=text)

    def finish(self, trial: Trial) -> None:
        """A run is over, diverged or not."""
        self.over += 1
        self.progress.update(self.task, completed=self.over * self.epochs)
        self.console.print(f"[{time.monotonic() - self.started:6.1f} s] {trial}", markup=False)
