"""What trainings have shown, in words: computed from their errors, and from what chance would give."""

import math
from collections.abc import Iterator
from typing import Any

import pandas as pd

from skiplab.stats.intervals import Interval, student
from skiplab.training.objectives import REGRESSION_CHANCE
from skiplab.training.seeds import CURVES, LOGGED, Trial, percent

HEADINGS = ("seed", "epochs", "train loss", "train error", "test loss", "test error", "seconds")

# Of the way from the error of chance to none: below the first a network "does not train", below the second "hardly".
_NOT, _HARDLY = 0.1, 0.5


def table(trials: list[Trial]) -> pd.DataFrame:
    """One row a seed; see `Trial.row`."""
    return pd.DataFrame([trial.row() for trial in trials])


def curves(trials: list[Trial]) -> pd.DataFrame:
    """One row a seed and epoch."""
    rows = [{"seed": trial.seed, **row} for trial in trials for row in trial.history.to_dict("records")]
    return pd.DataFrame(rows, columns=["seed", *CURVES])


def summary(runs: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Mean over the runs that did not diverge, with the ends of its 95 % interval (Student's t)."""
    found = {name: student(runs[name].to_numpy(float)) for name in LOGGED}
    return {name: {"mean": i.mean, "low": i.low, "high": i.high, "runs": i.count} for name, i in found.items()}


def text_rows(runs: pd.DataFrame) -> list[list[str]]:
    """The table for people; with two runs and more, their mean and half its interval below."""
    rows = [_row(str(run["seed"]), run) for run in runs.to_dict("records")]
    known = runs[runs["status"] == "finished"]
    if len(known) > 1:
        spread = {name: student(known[name].to_numpy(float)) for name in LOGGED}
        rows.append(["mean", "", *(_format_mean(name, spread[name]) for name in LOGGED), ""])
    return rows


def sentences(trials: list[Trial], model: str, train_chance: float, test_chance: float) -> Iterator[str]:
    """What the runs say; `train_chance` and `test_chance` are the errors of chance on the training and on the test part."""
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
        yield "Errors are shares of the targets' variance that are left unexplained; chance is always saying the mean."


def _trains(finished: list[Trial], model: str, train_chance: float) -> str:
    verdicts = [_verdict(trial, train_chance) for trial in finished]
    errors = [float(trial.history["train_error"].iloc[-1]) for trial in finished]
    if len(set(verdicts)) > 1:
        precision_record = ", ".join(
            f"seed {trial.seed} {verdict} ({percent(error)})"
            for trial, verdict, error in zip(finished, verdicts, errors, strict=True)
        )
        count = verdicts.count("trains")
        runs = f"{count} of {len(finished)} runs"
        return f"{model} trains in {runs}: by training error, {precision_record}; chance is {percent(train_chance)}."
    ends = "stays at" if verdicts[0] == "does not train" and not _ever_trains(finished, train_chance) else "ends at"
    verb = {"trains": "is", "hardly trains": "ends at"}.get(verdicts[0], ends)
    error = _with_interval(student(errors), train_chance)
    return f"{model} {verdicts[0]}: training error {verb} {error}; chance is {percent(train_chance)}."


def _verdict(trial: Trial, train_chance: float) -> str:
    way = 1 - float(trial.history["train_error"].iloc[-1]) / train_chance
    return "does not train" if way < _NOT else "hardly trains" if way < _HARDLY else "trains"


def _ever_trains(finished: list[Trial], train_chance: float) -> bool:
    """Whether some epoch was better than what counts as not training."""
    return any(float(trial.history["train_error"].min()) < (1 - _NOT) * train_chance for trial in finished)


def _with_interval(value: Interval, chance: float) -> str:
    if not value.known:
        return f"{percent(value.mean)} (one run, which gives no interval)"
    most = math.inf if chance == REGRESSION_CHANCE else 1.0  # values may be worse than their mean
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
