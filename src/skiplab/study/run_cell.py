"""What a run of a study does: train a network, and measure it before and after training. Functions return tables."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
from torch import Tensor, nn

from skiplab import measure
from skiplab.analysis import chart_data
from skiplab.analysis.finder import find
from skiplab.analysis.path_census import Census, census
from skiplab.analysis.skips import Skips
from skiplab.data import DataSet, Split, batches
from skiplab.errors import DivergedError
from skiplab.graph.capture import capture
from skiplab.graph.program import Program
from skiplab.graph.rng import isolated_rng
from skiplab.io.atomic import replacing
from skiplab.io.part_files import read_table, reading, write_table
from skiplab.measure.memory import samples as captured_for
from skiplab.training.fit import Run, fit
from skiplab.training.objectives import task_of
from skiplab.training.recipe import Recipe

Tables = dict[str, pd.DataFrame]
Report = Callable[[float, str], None]
ProgramAndSkips = tuple[Program, Skips]
Network = TypeVar("Network", bound=nn.Module)

SAMPLES = 256  # batch size of measurements: one batch, large enough for the batch statistics of a training graph
STRUCTURE = ("skips", "spine", "census", "histogram", "witness")  # tables that are the same for every seed


@dataclass(frozen=True)
class RunContext:
    """One run of a study: the settings of its cell, the folder of its results, and the callback for its progress."""

    settings: dict[str, Any]
    folder: Path
    report: Report

    @property
    def recipe(self) -> Recipe:
        """How the network is trained."""
        return Recipe(**self.settings["recipe"])


Work = Callable[[RunContext], Tables]  # one run of a study; one of its tables is `runs`, with a single row


def run_and_save(work: Work, settings: dict[str, Any], folder: Path, report: Report) -> None:
    """Perform one run and write its tables to its folder."""
    save_tables(work(RunContext(settings, folder, report)), folder)


def train_and_measure(model: nn.Module, data: DataSet, run: RunContext) -> Tables:
    """Measure gradients at initialization, train, and measure the trained network.

    Tables: runs (one row), curves, gradient, skips, spine, census, histogram, witness, and for a network that did
    not diverge contribution and lesion; columns as in `skiplab.measure` and `skiplab.analysis.chart_data`.
    """
    before = measure_gradients(model, data)
    run.report(0.05, "training")
    tables, trained = train_network(model, data, run)
    if trained is None:
        return {**tables, "gradient": before, **measure_structure(model, data)}
    run.report(0.9, "measuring")
    network = capture_and_find(trained, data)  # once, since a capture is about as expensive as a measurement
    gradient = pd.concat([before, _gradient_table(network, data, "trained")])
    return {**tables, "gradient": gradient, **_structure_tables(network), **_lesion_tables(network, data)}


def train_network(
    model: nn.Module, data: DataSet, run: RunContext, visit: Callable[[int, nn.Module], None] | None = None
) -> tuple[Tables, nn.Module | None]:
    """Tables runs (one row) and curves, and the trained network on the CPU, or None if it diverged.

    Reports progress from 5 to 90 percent of the run. `visit` is called during training, as in `skiplab.fit`.
    """
    recipe = run.recipe

    def on_epoch(row: dict[str, Any]) -> None:
        text = f"epoch {row['epoch']} of {recipe.epochs}, test error {row['test_error']:.1%}"
        run.report(0.05 + 0.85 * row["epoch"] / recipe.epochs, text)

    try:
        trained = fit(model, data, recipe, run.folder / "run", on_epoch, run.settings["device"], visit=visit)
    except DivergedError:
        log = pd.read_json(run.folder / "run" / "log.jsonl", lines=True)
        return {"runs": _outcome_row(model, None), "curves": _curve_table(log)}, None
    log = pd.concat([trained.history.assign(kind="epoch"), trained.steps.assign(kind="step")])
    return {"runs": _outcome_row(trained.model, trained), "curves": _curve_table(log)}, trained.model.cpu()


def measure_gradients(model: nn.Module, data: DataSet) -> pd.DataFrame:
    """The table of `skiplab.measure.gradient` at initialization, for one batch, in the training graph."""
    return _gradient_table(capture_and_find(model, data, train=True), data, "initialization")


def measure_structure(model: nn.Module, data: DataSet) -> Tables:
    """The seed-invariant tables: skips, spine, census, histogram, witness."""
    return _structure_tables(capture_and_find(model, data, samples=2))


def _gradient_table(network: ProgramAndSkips, data: DataSet, when: str) -> pd.DataFrame:
    batch = next(_fitting_batches(network[0], data.train))
    return measure.gradient(*network, [batch], task_of(data.train).loss).assign(when=when)


def _structure_tables(network: ProgramAndSkips) -> Tables:
    (program, skips), paths = network, census(network[0])
    return {
        "skips": chart_data.placed(program, skips).drop(columns=["branch", "program"]),
        "spine": chart_data.spine(program, skips),
        "census": _census_row(paths, skips),
        "histogram": chart_data.histogram(paths),
        "witness": chart_data.witness(paths),
    }


def _lesion_tables(network: ProgramAndSkips, data: DataSet) -> Tables:
    """Tables contribution and lesion, measured on the test part."""
    program, skips = network
    test, task = list(_fitting_batches(program, data.test)), task_of(data.test)
    lesion = measure.lesion(program, skips, test, task.loss, task.error)
    return {
        "contribution": measure.contribution(program, skips, test),
        "lesion": lesion.rename(columns=lambda name: name.replace("metric", "error")),
    }


def split_gradient(tables: Tables) -> Tables:
    """Split the table gradient: that of weight layers (gradient) and that at merges (merge_gradient)."""
    gradient = tables["gradient"]
    layers = gradient[gradient["what"] == "weight"].rename(columns={"name": "layer"})
    merges = gradient[gradient["what"] == "skip"].rename(columns={"name": "id"})
    return {**tables, "gradient": layers.drop(columns="what"), "merge_gradient": merges.drop(columns="what")}


def capture_and_find(
    model: nn.Module, data: DataSet, samples: int = SAMPLES, *, train: bool = False
) -> ProgramAndSkips:
    """The network's program, captured with `samples` samples, and its skips; `train` captures the training graph.

    If the batch size of the program is fixed and larger than the test part, captures with as many as the test part has.
    """
    program = capture(model, (data.train.x[:samples],), train=train)
    if not program.dynamic_batch and len(data.test) < captured_for(program):
        program = capture(model, (data.train.x[: len(data.test)],), train=train)
    return program, find(program)


def _fitting_batches(program: Program, split: Split) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches that fit the program; if its batch size is fixed, full batches of that size only."""
    if program.dynamic_batch:
        return batches(split, SAMPLES)
    size = captured_for(program)
    return (batch for batch in batches(split, size) if len(batch[0]) == size)


def error_rate(output: Tensor, target: Tensor) -> Tensor:
    """Share of wrong predictions: output (N, classes), target (N)."""
    return (output.argmax(1) != target).double().mean()


def save_tables(tables: Tables, folder: Path) -> None:
    """Write each table as Parquet."""
    for name, table in tables.items():
        with replacing(folder / f"{name}.parquet") as path:
            write_table(path, table)


def load_tables(folder: Path) -> Tables:
    """Read the tables that `save_tables` wrote."""
    with reading(folder, "delete this folder, or start over with --fresh"):
        return {path.stem: read_table(path) for path in sorted(folder.glob("*.parquet"))}


def build_with_seed(build: Callable[[], Network], seed: int) -> Network:
    """The network with the initial weights of a seed; torch's random state does not change."""
    with isolated_rng(seed):
        return build()


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


_LOG_COLUMNS = ["epoch", "learning_rate", "train_loss", "train_error", "test_loss", "test_error", "seconds"]


def _curve_table(log: pd.DataFrame) -> pd.DataFrame:
    """One row per epoch, including one that diverged before its end; gradient_norm is the mean over its steps."""
    steps = log[log["kind"] == "step"]
    norms = steps.groupby("epoch")["gradient_norm"].mean().reset_index()
    epochs = log[log["kind"] == "epoch"].reindex(columns=_LOG_COLUMNS).astype({"epoch": "int64"})
    return norms.merge(epochs, on="epoch", how="left").astype(dict.fromkeys(_LOG_COLUMNS[1:], "float64"))


def _outcome_row(model: nn.Module, run: Run | None) -> pd.DataFrame:
    """The row of a run; the errors of a diverged run are NaN."""
    row: dict = {"status": "diverged" if run is None else "ok"}
    last = None if run is None else run.history.iloc[-1]
    for name in ("train_error", "test_error", "train_loss", "test_loss"):
        row[name] = float("nan") if last is None else float(last[name])
    row["seconds"] = float("nan") if run is None else float(run.history["seconds"].sum())
    row["parameters"] = sum(parameter.numel() for parameter in model.parameters())
    return pd.DataFrame([row])
