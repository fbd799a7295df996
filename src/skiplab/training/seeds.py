"""One training run per seed, with its own initial weights and folder."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn

from skiplab.data import DataSet, Split
from skiplab.errors import DivergedError
from skiplab.io.resume import FRESH, ResumeStore, StoreLayout
from skiplab.training.checkpoint import discard
from skiplab.training.fit import evaluate, fit
from skiplab.training.recipe import Recipe

LOGGED = ("train_loss", "train_error", "test_loss", "test_error")
CURVES = ("epoch", "learning_rate", "running_loss", "running_error", *LOGGED, "seconds")

_SAMPLES = 64  # for the loss that identifies the untrained network
_RUNS = StoreLayout("config.json", fix=FRESH)  # the folder of all seeds
_START = StoreLayout(  # the folder of one seed; the tolerance allows for other kernels
    "start.json", fix=FRESH, tolerance={"network.untrained_loss": 1e-3}
)


@dataclass(frozen=True)
class Plan:
    """Network, data and recipe of the runs.

    Attributes:
        build: returns the network with the initial weights of a seed.
        data: training and test split.
        recipe: the recipe; its seed is replaced.
        device: device to train on.
        out: folder of all runs, or None.
    """

    build: Callable[[int], nn.Module]
    data: DataSet
    recipe: Recipe
    device: str
    out: Path | None

    def folder(self, seed: int) -> Path | None:
        """The folder of the run of this seed, or None."""
        return self.out / f"seed-{seed}" if self.out else None


@dataclass(frozen=True)
class Trial:
    """The result of one seed.

    Attributes:
        seed: the seed.
        history: one row per epoch, as in `skiplab.Run`.
        divergence: the error message of a run that diverged, else "".
    """

    seed: int
    history: pd.DataFrame
    divergence: str = ""

    def __str__(self) -> str:
        row = self.row()
        if self.divergence:
            return f"seed {self.seed} diverged in epoch {row['epochs'] + 1}"
        train, test = percent(row["train_error"]), percent(row["test_error"])
        return f"seed {self.seed}: training error {train}, test error {test}"

    def row(self) -> dict[str, Any]:
        """The run as a row of a table. Of a diverged run, losses and errors are NaN; the time is of finished epochs."""
        done = len(self.history)
        last = (
            dict.fromkeys(LOGGED, math.nan)
            if self.divergence or not done
            else dict(self.history.iloc[-1][list(LOGGED)])
        )
        seconds = float(self.history["seconds"].sum()) if done else 0.0
        status = "diverged" if self.divergence else "finished"
        return {"seed": self.seed, "status": status, "epochs": done, **last, "seconds": seconds}


def train_seed(plan: Plan, seed: int, on_epoch: Callable[[dict[str, Any]], None]) -> Trial:
    """Trains one seed, or resumes its run; divergence is a result too. `on_epoch` is called with each new row."""
    model, folder = plan.build(seed), plan.folder(seed)
    if folder is not None:
        _check_start(folder, model, plan.data)
    try:
        run = fit(model, plan.data, replace(plan.recipe, seed=seed), folder, on_epoch, plan.device)
    except DivergedError as error:
        return Trial(seed, error.history, str(error))
    return Trial(seed, run.history)


def percent(share: float) -> str:
    """A share from 0 to 1 as "12.3 %"."""
    return f"{100 * share:.1f} %"


def open_folder(out: Path, identity: dict[str, Any], *, fresh: bool) -> None:
    """Prepares the folder of runs that share `identity` (all except the seed); `fresh` removes all runs in it.

    Raises:
        DataError: the folder has runs of another identity.
    """
    if fresh:
        for folder in out.glob("seed-*"):
            discard(folder)
            _START.forget(folder)
        _RUNS.forget(out)
    ResumeStore(out, identity, _RUNS).claim()


def _check_start(folder: Path, model: nn.Module, data: DataSet) -> None:
    """Raises DataError for a run of another network with equal weight shapes, such as one with other skips."""
    loss, _ = evaluate(model, Split(data.train.x[:_SAMPLES], data.train.y[:_SAMPLES]))
    network = {"untrained_loss": loss if math.isfinite(loss) else None, "examples": _SAMPLES}
    ResumeStore(folder, {"network": network}, _START).claim()
