"""Train one network and examine it before and after: the tables that one cell of a grid leaves behind."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skiplab import measure, outline
from skiplab.data import DataSet, batches
from skiplab.errors import DataError, DivergedError
from skiplab.export import capture
from skiplab.files import replacing
from skiplab.finder import find
from skiplab.paths import Census, census
from skiplab.program import Program
from skiplab.skips import Skips
from skiplab.train import Recipe, Run, fit

Tables = dict[str, pd.DataFrame]

SAMPLES = 256  # on which gradients are measured: one batch, so that training graphs see enough for batch norm


def examine(
    model: nn.Module,
    data: DataSet,
    recipe: Recipe,
    folder: Path,
    report: Callable[[float, str], None],
    device: str,
) -> Tables:
    """Gradients at initialisation, training on `device`, and all that is measured on the trained network (CPU).

    Tables: runs (one row), curves, gradient, skips, spine, census, histogram, witness, and for a network that did
    not diverge contribution and lesion; columns as in `skiplab.measure` and `skiplab.outline`.
    """
    x, y = next(batches(data.train, SAMPLES))
    program = capture(model, (x,), train=True)
    before = measure.gradient(program, find(program), [(x, y)], F.cross_entropy).assign(when="initialisation")
    report(0.05, "training")

    def on_epoch(row: dict) -> None:
        text = f"epoch {row['epoch']} of {recipe.epochs}, test error {row['test_error']:.1%}"
        report(0.05 + 0.85 * row["epoch"] / recipe.epochs, text)

    try:
        run = fit(model, data, recipe, folder / "run", on_epoch, device)
    except DivergedError:
        log = pd.read_json(folder / "run" / "log.jsonl", lines=True)
        lost = {"gradient": before, "curves": _curves(log), "runs": _outcome(model, None)}
        return lost | _structure(capture(model, (x,)))
    report(0.9, "measuring")
    tables = _trained(run, data)
    return tables | {"gradient": pd.concat([before, tables["gradient"]])}


def save(tables: Tables, folder: Path) -> None:
    """Each table as Parquet."""
    for name, table in tables.items():
        with replacing(folder / f"{name}.parquet") as path:
            table.to_parquet(path, index=False)


def load(folder: Path) -> Tables:
    """What `save` has written."""
    try:
        return {path.stem: pd.read_parquet(path) for path in sorted(folder.glob("*.parquet"))}
    except (OSError, ValueError) as error:
        raise DataError(
            f"the finished run in {folder} is damaged ({error}): delete that folder, or use --fresh"
        ) from error


def _structure(program: Program) -> Tables:
    skips, paths = find(program), census(program)
    return {
        "skips": outline.placed(program, skips).drop(columns=["branch", "program"]),
        "spine": outline.spine(program, skips),
        "census": _census_row(paths, skips),
        "histogram": outline.histogram(paths),
        "witness": outline.witness(paths),
    }


def _census_row(paths: Census, skips: Skips) -> pd.DataFrame:
    row = {
        "paths": str(paths.paths),
        "fewest": paths.nonlinearities.min,
        "most": paths.nonlinearities.max,
        "fewest_weight_layers": paths.weight_layers.min,
        "most_weight_layers": paths.weight_layers.max,
        "skips": len(skips),
    }
    return pd.DataFrame([row])


def _trained(run: Run, data: DataSet) -> Tables:
    x, y = next(batches(data.train, SAMPLES))
    program = capture(run.model.cpu(), (x,))
    skips = find(program)
    gradient = measure.gradient(program, skips, [(x, y)], F.cross_entropy).assign(when="trained")
    test = list(batches(data.test, SAMPLES))
    lesion = measure.lesion(program, skips, test, F.cross_entropy, _error)
    return {
        **_structure(program),
        "runs": _outcome(run.model, run),
        "curves": _curves(pd.concat([run.history.assign(kind="epoch"), run.steps.assign(kind="step")])),
        "gradient": gradient,
        "contribution": measure.contribution(program, skips, test),
        "lesion": lesion.rename(columns=lambda name: name.replace("metric", "error")),
    }


def _error(output: Tensor, target: Tensor) -> Tensor:
    return (output.argmax(1) != target).double().mean()


_LOGGED = ["epoch", "learning_rate", "train_loss", "train_error", "test_loss", "test_error", "seconds"]


def _curves(log: pd.DataFrame) -> pd.DataFrame:
    """One row an epoch, one that diverged on the way included; gradient_norm is the mean over its steps."""
    steps = log[log["kind"] == "step"]
    norms = steps.groupby("epoch")["gradient_norm"].mean().reset_index()
    epochs = log[log["kind"] == "epoch"].reindex(columns=_LOGGED).astype({"epoch": "int64"})
    return norms.merge(epochs, on="epoch", how="left").astype(dict.fromkeys(_LOGGED[1:], "float64"))


def _outcome(model: nn.Module, run: Run | None) -> pd.DataFrame:
    """The row of a run; one that diverged has no errors to show."""
    row: dict = {"status": "diverged" if run is None else "ok"}
    last = None if run is None else run.history.iloc[-1]
    for name in ("train_error", "test_error", "train_loss", "test_loss"):
        row[name] = float("nan") if last is None else float(last[name])
    row["seconds"] = float("nan") if run is None else float(run.history["seconds"].sum())
    row["parameters"] = sum(parameter.numel() for parameter in model.parameters())
    return pd.DataFrame([row])


def config(recipe: Recipe, **network: object) -> dict:
    """The JSON that makes a cell this cell and no other."""
    return {**network, "recipe": recipe.record()}


def seeded(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    """The network with the initial weights of that seed; torch's random state stays as it was."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        return build()
