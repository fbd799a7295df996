"""A bar on stderr for several trainings one after another, or a line for each without a terminal."""

from typing import Any

from rich.progress import TextColumn

from skiplab.cli import render
from skiplab.training.seeds import Trial, percent


class Bar(render.TimedProgress):
    """Use as a context manager."""

    def __init__(self, epochs: int, runs: int) -> None:
        super().__init__(render.stderr(), TextColumn("{task.fields[text]}"))
        self.epochs, self.over = epochs, 0
        self.task = self.progress.add_task("training", total=epochs * runs, text="")

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
        self.line(str(trial))
