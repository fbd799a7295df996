"""Progress of training on stderr: one bar for all seeds, or one line per seed without a terminal."""

from typing import Any

from rich.progress import TextColumn

from skiplab.cli import console
from skiplab.training.seeds import Trial, percent


class TrainBar(console.TimedProgress):
    """One bar for all runs, which train one after another. Use as a context manager."""

    def __init__(self, epochs: int, runs: int) -> None:
        super().__init__(console.stderr(), TextColumn("{task.fields[text]}"))
        self.epochs, self.finished = epochs, 0
        self.task = self.progress.add_task("training", total=epochs * runs, text="")

    def epoch(self, seed: int, row: dict[str, Any]) -> None:
        """Advances the bar; `row` is the new row of the history."""
        text = f"epoch {row['epoch']} of {self.epochs}, loss {row['train_loss']:.3g}, "
        text += f"test error {percent(row['test_error'])}"
        completed = self.finished * self.epochs + row["epoch"]
        self.progress.update(self.task, description=f"seed {seed}", completed=completed, text=text)

    def finish(self, trial: Trial) -> None:
        """Prints the result of a run that is finished or has diverged."""
        self.finished += 1
        self.progress.update(self.task, completed=self.finished * self.epochs)
        self.line(str(trial))
