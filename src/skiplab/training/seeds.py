"""One training run for each seed: each has its own initial weights and its own folder."""

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

_EXAMPLES = 64  # on which the untrained network is recognized
_RUNS = StoreLayout("config.json", fix=FRESH)  # of the folder of all seeds
_START = StoreLayout(  # of each seed's folder; other kernels round the loss differently
    "start.json", fix=FRESH, tolerance={"network.untrained_loss": 1e-3}
)


@dataclass(frozen=True)
class Plan:
    """What is trained, on which data and how; `build` returns the network with the initial weights of a seed."""

    build: Callable[[int], nn.Module]
    data: DataSet
    recipe: Recipe
    device: str
    out: Path | None

    def folder(self, seed: int) -> Path | None:
        """Where the run of this seed is kept; None: nowhere."""
        return self.out / f"seed-{seed}" if self.out else None


@dataclass(frozen=True)
class Trial:
    """The outcome of one seed's run; `history` as in `skiplab.Run`, `why` is the reason why it diverged, or empty."""

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
        """The run as a row of a table. A run that diverged has NaN losses and errors, and the time of whole epochs."""
        done = len(self.history)
        last = (
            dict.fromkeys(LOGGED, math.nan)
            if self.divergence or not done
            else dict(self.history.iloc[-1][list(LOGGED)])
        )
        seconds = float(self.history["seconds"].sum()) if done else 0.0
        status = "diverged" if self.divergence else "finished"
        return {"seed": self.seed, "status": status, "epochs": done, **last, "seconds": seconds}


def train_seed(plan: Plan, seed: int, tell: Callable[[dict[str, Any]], None]) -> Trial:
    """Trains one seed, or resumes its run. A run that diverges is a result too. `tell` gets each new epoch's row."""
    model, folder = plan.build(seed), plan.folder(seed)
    if folder is not None:
        _check_start(folder, model, plan.data)
    try:
        run = fit(model, plan.data, replace(plan.recipe, seed=seed), folder, tell, plan.device)
    except DivergedError as error:
        return Trial(seed, error.history, str(error))
    return Trial(seed, run.history)


def percent(share: float) -> str:
    """A share from 0 to 1 as "12.3 %"."""
    return f"{100 * share:.1f} %"


def open_folder(out: Path, identity: dict[str, Any], *, fresh: bool) -> None:
    """Prepares the folder for the runs of one identity, all seeds alike; `fresh` removes every run that is there.

    Raises `DataError` where it holds runs of another identity.
    """
    if fresh:
        for folder in out.glob("seed-*"):
            discard(folder)
            _START.forget(folder)
        _RUNS.forget(out)
    ResumeStore(out, identity, _RUNS).claim()


def _check_start(folder: Path, model: nn.Module, data: DataSet) -> None:
    """Refuses a run of another network with weights of the same shapes, such as one with other skip connections."""
    loss, _ = evaluate(model, Split(data.train.x[:_EXAMPLES], data.train.y[:_EXAMPLES]))
    network = {"untrained_loss": loss if math.isfinite(loss) else None, "examples": _EXAMPLES}
    ResumeStore(folder, {"network": network}, _START).claim()
