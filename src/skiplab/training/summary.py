"""Tables and sentences on training runs, from their errors and the error of chance."""

import math
from collections.abc import Iterator
from typing import Any

import pandas as pd

from skiplab.stats.intervals import Interval, student
from skiplab.training.objectives import REGRESSION_CHANCE
from skiplab.training.seeds import CURVES, LOGGED, Trial, percent

HEADINGS = ("seed", "epochs", "train loss", "train error", "test loss", "test error", "seconds")

# Relative reduction of the chance error: below the first a network "does not train", below the second "hardly trains".
_NOT, _HARDLY = 0.1, 0.5


def table(trials: list[Trial]) -> pd.DataFrame:
    """One row per seed; see `Trial.row`."""
    return pd.DataFrame([trial.row() for trial in trials])


def curves(trials: list[Trial]) -> pd.DataFrame:
    """One row per seed and epoch."""
    rows = [{"seed": trial.seed, **row} for trial in trials for row in trial.history.to_dict("records")]
    return pd.DataFrame(rows, columns=["seed", *CURVES])


def summary(runs: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Mean of each loss and error over the finished runs, with its 95 % interval (Student's t)."""
    found = {name: student(runs[name].to_numpy(float)) for name in LOGGED}
    return {name: {"mean": i.mean, "low": i.low, "high": i.high, "runs": i.count} for name, i in found.items()}


def text_rows(runs: pd.DataFrame) -> list[list[str]]:
    """The cells of the table in the terminal; for several runs, the last row is the mean ± half its 95 % interval."""
    rows = [_row(str(run["seed"]), run) for run in runs.to_dict("records")]
    known = runs[runs["status"] == "finished"]
    if len(known) > 1:
        spread = {name: student(known[name].to_numpy(float)) for name in LOGGED}
        rows.append(["mean", "", *(_format_mean(name, spread[name]) for name in LOGGED), ""])
    return rows


def sentences(trials: list[Trial], model: str, train_chance: float, test_chance: float) -> Iterator[str]:
    """Sentences on the runs; `train_chance` and `test_chance` are the chance errors on the two splits."""
    for trial in trials:
        if trial.divergence:
            yield f"Seed {trial.seed} diverges: {trial.divergence}."
    finished = [trial for trial in trials if not trial.divergence]
    if not finished:
        return
    yield _trains(finished, model, train_chance)
    test = student([float(trial.history["test_error"].iloc[-1]) for trial in finished])
    yield f"Test error: {_with_interval(test, test_chance)}; chance is {percent(test_chance)}."
    if train_chance == REGRESSION_CHANCE:
        yield "An error is the unexplained share of the targets' variance; chance is the error of the constant mean."


def _trains(finished: list[Trial], model: str, train_chance: float) -> str:
    verdicts = [_verdict(trial, train_chance) for trial in finished]
    errors = [float(trial.history["train_error"].iloc[-1]) for trial in finished]
    if len(set(verdicts)) > 1:
        by_seed = ", ".join(
            f"seed {trial.seed} {verdict} ({percent(error)})"
            for trial, verdict, error in zip(finished, verdicts, errors, strict=True)
        )
        count = verdicts.count("trains")
        runs = f"{count} of {len(finished)} runs"
        return f"{model} trains in {runs}: by training error, {by_seed}; chance is {percent(train_chance)}."
    ends = "stays at" if verdicts[0] == "does not train" and not _ever_trains(finished, train_chance) else "ends at"
    verb = {"trains": "is", "hardly trains": "ends at"}.get(verdicts[0], ends)
    error = _with_interval(student(errors), train_chance)
    return f"{model} {verdicts[0]}: training error {verb} {error}; chance is {percent(train_chance)}."


def _verdict(trial: Trial, train_chance: float) -> str:
    reduction = 1 - float(trial.history["train_error"].iloc[-1]) / train_chance
    return "does not train" if reduction < _NOT else "hardly trains" if reduction < _HARDLY else "trains"


def _ever_trains(finished: list[Trial], train_chance: float) -> bool:
    """Whether the training error of any epoch passes the threshold for training."""
    return any(float(trial.history["train_error"].min()) < (1 - _NOT) * train_chance for trial in finished)


def _with_interval(value: Interval, chance: float) -> str:
    if not value.known:
        return f"{percent(value.mean)} (one run, so no interval)"
    most = math.inf if chance == REGRESSION_CHANCE else 1.0  # regression may be worse than the mean
    low, high = (100 * min(max(end, 0.0), most) for end in (value.low, value.high))
    return f"{percent(value.mean)} on average (95 % interval {low:.1f} to {high:.1f} over {value.count} runs)"


def _row(name: str, run: dict[Any, Any]) -> list[str]:
    epochs = f"{run['epochs']}, diverged" if run["status"] == "diverged" else str(run["epochs"])
    return [name, epochs, *(_format_value(each, run[each]) for each in LOGGED), f"{run['seconds']:.1f}"]


def _format_value(name: str, value: float) -> str:
    if not math.isfinite(value):
        return "–"
    return percent(value) if name.endswith("error") else f"{value:.4g}"


def _format_mean(name: str, value: Interval) -> str:
    if name.endswith("error"):
        return f"{100 * value.mean:.1f} ± {100 * value.half:.1f} %"
    return f"{value.mean:.4g} ± {value.half:.2g}"
