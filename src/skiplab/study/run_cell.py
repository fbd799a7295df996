"""What a run of a study does with its network: train it, and measure it before and after. Each gives tables."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
from torch import Tensor, nn

from skiplab import measure
from skiplab.analysis import tables
from skiplab.analysis.finder import find
from skiplab.analysis.path_census import Census, census
from skiplab.analysis.skips import Skips
from skiplab.data import DataSet, Split, batches
from skiplab.errors import DataError, DivergedError
from skiplab.graph.capture import capture
from skiplab.graph.program import Program
from skiplab.graph.rng import isolated_rng
from skiplab.io.atomic import replacing
from skiplab.measure.memory import samples as captured_for
from skiplab.training.fit import Run, fit
from skiplab.training.objectives import task_of
from skiplab.training.recipe import Recipe

Tables = dict[str, pd.DataFrame]
Report = Callable[[float, str], None]
ProgramAndSkips = tuple[Program, Skips]
Network = TypeVar("Network", bound=nn.Module)

SAMPLES = 256  # on which gradients are measured: one batch, so that training graphs see enough for batch norm
STRUCTURE = ("skips", "spine", "census", "histogram", "witness")  # tables that are the same for every seed


@dataclass(frozen=True)
class RunContext:
    """How a network is trained in a run: `settings` are those of the study's cell."""

    settings: dict[str, Any]
    folder: Path
    report: Report

    @property
    def recipe(self) -> Recipe:
        return Recipe(**self.settings["recipe"])


def train_and_measure(model: nn.Module, data: DataSet, training: RunContext) -> Tables:
    """Gradients at initialization, training, and all that is measured on the trained network.

    Tables: runs (one row), curves, gradient, skips, spine, census, histogram, witness, and for a network that did
    not diverge contribution and lesion; columns as in `skiplab.measure` and `skiplab.analysis.tables`.
    """
    before = measure_gradients(model, data)
    training.report(0.05, "training")
    tables, trained = train_network(model, data, training)
    if trained is None:
        return {**tables, "gradient": before, **measure_structure(model, data)}
    training.report(0.9, "measuring")
    network = capture_and_find(trained, data)  # once, since capturing takes as long as much of what follows
    gradient = pd.concat([before, _gradient_table(network, data, "trained")])
    return {**tables, "gradient": gradient, **_structure_tables(network), **_lesion_tables(network, data)}


def train_network(
    model: nn.Module, data: DataSet, training: RunContext, visit: Callable[[int, nn.Module], None] | None = None
) -> tuple[Tables, nn.Module | None]:
    """Tables runs (one row) and curves, and the trained network on the CPU, or None if it diverged.

    Progress goes from 5 to 90 per cent of the run. `visit` sees the network on the way, as in `skiplab.fit`.
    """
    recipe = training.recipe

    def on_epoch(row: dict[str, Any]) -> None:
        text = f"epoch {row['epoch']} of {recipe.epochs}, test error {row['test_error']:.1%}"
        training.report(0.05 + 0.85 * row["epoch"] / recipe.epochs, text)

    try:
        run = fit(model, data, recipe, training.folder / "run", on_epoch, training.settings["device"], visit=visit)
    except DivergedError:
        log = pd.read_json(training.folder / "run" / "log.jsonl", lines=True)
        return {"runs": _outcome_row(model, None), "curves": _curve_table(log)}, None
    log = pd.concat([run.history.assign(kind="epoch"), run.steps.assign(kind="step")])
    return {"runs": _outcome_row(run.model, run), "curves": _curve_table(log)}, run.model.cpu()


def measure_gradients(model: nn.Module, data: DataSet) -> pd.DataFrame:
    """See `skiplab.measure.gradient`, on one batch, at initialization: in the training graph."""
    return _gradient_table(capture_and_find(model, data, train=True), data, "initialization")


def measure_structure(model: nn.Module, data: DataSet) -> Tables:
    """What every seed has alike: skips, spine, census, histogram, witness."""
    return _structure_tables(capture_and_find(model, data, samples=2))


def _gradient_table(network: ProgramAndSkips, data: DataSet, when: str) -> pd.DataFrame:
    batch = next(_fitting_batches(network[0], data.train))
    return measure.gradient(*network, [batch], task_of(data.train).loss).assign(when=when)


def _structure_tables(network: ProgramAndSkips) -> Tables:
    (program, skips), paths = network, census(network[0])
    return {
        "skips": tables.placed(program, skips).drop(columns=["branch", "program"]),
        "spine": tables.spine(program, skips),
        "census": _census_row(paths, skips),
        "histogram": tables.histogram(paths),
        "witness": tables.witness(paths),
    }


def _lesion_tables(network: ProgramAndSkips, data: DataSet) -> Tables:
    """Tables contribution and lesion, on the test part."""
    program, skips = network
    test, task = list(_fitting_batches(program, data.test)), task_of(data.test)
    lesion = measure.lesion(program, skips, test, task.loss, task.error)
    return {
        "contribution": measure.contribution(program, skips, test),
        "lesion": lesion.rename(columns=lambda name: name.replace("metric", "error")),
    }


def split_gradient(tables: Tables) -> Tables:
    """The gradient of weight layers and that at merges are measured together, and shown apart."""
    gradient = tables["gradient"]
    layers = gradient[gradient["what"] == "weight"].rename(columns={"name": "layer"})
    merges = gradient[gradient["what"] == "skip"].rename(columns={"name": "id"})
    return {**tables, "gradient": layers.drop(columns="what"), "merge_gradient": merges.drop(columns="what")}


def capture_and_find(
    model: nn.Module, data: DataSet, samples: int = SAMPLES, *, train: bool = False
) -> ProgramAndSkips:
    """The network's program, captured on so many samples, and its skips; `train` takes the training graph.

    On fewer where its batch size cannot be free and the test part has fewer.
    """
    program = capture(model, (data.train.x[:samples],), train=train)
    if not program.dynamic_batch and len(data.test) < captured_for(program):
        program = capture(model, (data.train.x[: len(data.test)],), train=train)
    return program, find(program)


def _fitting_batches(program: Program, split: Split) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches that the program takes: where its batch size is not free, of that size, without the last ragged one."""
    if program.dynamic_batch:
        return batches(split, SAMPLES)
    size = captured_for(program)
    return (batch for batch in batches(split, size) if len(batch[0]) == size)


def error_rate(output: Tensor, target: Tensor) -> Tensor:
    """Share of wrong answers."""
    return (output.argmax(1) != target).double().mean()


def save_tables(tables: Tables, folder: Path) -> None:
    """Each table as Parquet."""
    for name, table in tables.items():
        with replacing(folder / f"{name}.parquet") as path:
            table.to_parquet(path, index=False)


def load_tables(folder: Path) -> Tables:
    """What `save` has written."""
    try:
        return {path.stem: pd.read_parquet(path) for path in sorted(folder.glob("*.parquet"))}
    except (OSError, ValueError) as error:
        raise DataError(
            f"the finished run in {folder} is damaged ({error}): delete that folder, or use --fresh"
        ) from error


def build_with_seed(build: Callable[[], Network], seed: int) -> Network:
    """The network with the initial weights of that seed; torch's random state stays as it was."""
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
    """One row an epoch, one that diverged on the way included; gradient_norm is the mean over its steps."""
    steps = log[log["kind"] == "step"]
    norms = steps.groupby("epoch")["gradient_norm"].mean().reset_index()
    epochs = log[log["kind"] == "epoch"].reindex(columns=_LOG_COLUMNS).astype({"epoch": "int64"})
    return norms.merge(epochs, on="epoch", how="left").astype(dict.fromkeys(_LOG_COLUMNS[1:], "float64"))


def _outcome_row(model: nn.Module, run: Run | None) -> pd.DataFrame:
    """The row of a run; one that diverged has no errors to show."""
    row: dict = {"status": "diverged" if run is None else "ok"}
    last = None if run is None else run.history.iloc[-1]
    for name in ("train_error", "test_error", "train_loss", "test_loss"):
        row[name] = float("nan") if last is None else float(last[name])
    row["seconds"] = float("nan") if run is None else float(run.history["seconds"].sum())
    row["parameters"] = sum(parameter.numel() for parameter in model.parameters())
    return pd.DataFrame([row])
