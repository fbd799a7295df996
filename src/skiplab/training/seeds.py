"""One training a seed: each from its own initial weights, kept in its own folder."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn

from skiplab.data import DataSet, Split
from skiplab.errors import DataError, DivergedError
from skiplab.io.atomic import writable_folder, write_json
from skiplab.training.checkpoint import discard
from skiplab.training.fit import evaluate, fit
from skiplab.training.recipe import Recipe

LOGGED = ("train_loss", "train_error", "test_loss", "test_error")
CURVES = ("epoch", "learning_rate", "running_loss", "running_error", *LOGGED, "seconds")

_START = 64  # examples on which the untrained network is known again
_CLOSE = 1e-3  # of its loss there; kernels in another order round differently


@dataclass(frozen=True)
class Plan:
    """What is trained, on what and how; `build` gives the network with the initial weights of a seed."""

    build: Callable[[int], nn.Module]
    data: DataSet
    recipe: Recipe
    device: str
    out: Path | None

    def folder(self, seed: int) -> Path | None:
        return self.out / f"seed-{seed}" if self.out else None


@dataclass(frozen=True)
class Trial:
    """How one seed's training went; `history` as in `skiplab.Run`, `why` says why a run diverged."""

    seed: int
    history: pd.DataFrame
    why: str = ""

    def __str__(self) -> str:
        row = self.row()
        if self.why:
            return f"seed {self.seed} diverged in epoch {row['epochs'] + 1}"
        train, test = percent(row["train_error"]), percent(row["test_error"])
        return f"seed {self.seed}: training error {train}, test error {test}"

    def row(self) -> dict[str, Any]:
        """Of a run that diverged, the losses and errors are NaN, and the seconds those of whole epochs."""
        done = len(self.history)
        last = dict.fromkeys(LOGGED, math.nan) if self.why or not done else dict(self.history.iloc[-1][list(LOGGED)])
        seconds = float(self.history["seconds"].sum()) if done else 0.0
        status = "diverged" if self.why else "finished"
        return {"seed": self.seed, "status": status, "epochs": done, **last, "seconds": seconds}


def trained(plan: Plan, seed: int, tell: Callable[[dict[str, Any]], None]) -> Trial:
    """One run, from where it was stopped; one that diverges is a result as well. `tell` gets each new epoch's row."""
    model, folder = plan.build(seed), plan.folder(seed)
    if folder is not None:
        _same_start(folder, model, plan.data)
    try:
        run = fit(model, plan.data, replace(plan.recipe, seed=seed), folder, tell, plan.device)
    except DivergedError as error:
        return Trial(seed, error.history, str(error))
    return Trial(seed, run.history)


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def start_over(out: Path) -> None:
    """Removes every run from the folder, and what says which they are."""
    for folder in out.glob("seed-*"):
        discard(folder)
        (folder / "start.json").unlink(missing_ok=True)
    (out / "config.json").unlink(missing_ok=True)


def _same_start(folder: Path, model: nn.Module, data: DataSet) -> None:
    """Weights of the same shapes may be another network's, such as the same one with other skip connections."""
    loss, _ = evaluate(model, Split(data.train.x[:_START], data.train.y[:_START]))
    file = writable_folder(folder) / "start.json"
    now = loss if math.isfinite(loss) else None
    if not file.exists():
        write_json(file, {"loss": now})
        return
    try:
        before = json.loads(file.read_text(encoding="utf-8"))["loss"]
        same = before == now or math.isclose(before or math.nan, now or math.nan, rel_tol=_CLOSE)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file} is damaged ({error!r}): choose another folder, or start over with --fresh") from error
    if not same:
        raise DataError(
            f"{folder} holds a run of another network: untrained, its loss on {_START} examples was {before}, and is "
            f"now {now}; choose another folder, or start over with --fresh"
        )
