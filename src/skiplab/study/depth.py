"""Does a deep network train without skip connections, and why does it with them?

Three networks that differ in one object, the skip connection: `plain` has none, `post-activation` adds the
input back before the last ReLU of each block (ResNet v1), `pre-activation` after it, so that nothing lies on
the identity route (ResNet v2). Same layers, same initial weights for each seed, same data in the same order.

Hypothesis: the deeper plain network is worse on the *training* set too, so it is harder to optimise and not
over-fitted (He et al. 2016, "Deep Residual Learning for Image Recognition", §1 and §4.2); shortcuts remove
this, cleaner ones more so (He et al. 2016, "Identity Mappings in Deep Residual Networks", §4).
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from skiplab.data import digits
from skiplab.errors import UsageError
from skiplab.models.resnet import resnet
from skiplab.study.examine import Tables, config, examine, save, seeded
from skiplab.study.grid import Cell, Listener, Report, run_grid
from skiplab.study.result import Result, collect, versions
from skiplab.study.stats import student
from skiplab.study.verdicts import verdicts
from skiplab.train import Recipe

QUESTION = "Does a deep network train without skip connections, and why does it with them?"

VARIANTS: dict[str, Any] = {  # options of `resnet`
    "plain": {"skip": None},
    "post-activation": {"placement": "post"},
    "pre-activation": {"placement": "pre"},
}
WIDTH = 8  # channels of the first stage: enough for 8×8 digits, and fifty layers train in seconds
STRUCTURE = ("skips", "spine", "census", "histogram", "witness")  # the same for every seed


RECIPE = Recipe(epochs=10, batch_size=128, learning_rate=0.1)


@dataclass(frozen=True)
class Grid:
    """What is compared: depths in weight layers (6n + 2), number of seeds, how each is trained, and where."""

    depths: tuple[int, ...] = (8, 20, 50)
    seeds: int = 3
    recipe: Recipe = RECIPE
    device: str = "auto"

    def __post_init__(self) -> None:
        if not self.depths or self.seeds < 1:
            raise UsageError("the grid is empty: give at least one depth and one seed")
        for depth in self.depths:
            if depth < 8 or (depth - 2) % 6:
                below = max(8, depth - (depth - 2) % 6)
                raise UsageError(
                    f"depth {depth}: these networks have 6n + 2 weight layers, such as {below}, {below + 6}"
                )


QUICK = Grid(depths=(8, 50), recipe=replace(RECIPE, epochs=6))
FULL = Grid(depths=(8, 20, 32, 50, 110), seeds=5, recipe=replace(RECIPE, epochs=40))


def run(grid: Grid, store: Path, workers: int, listener: Listener, *, fresh: bool = False) -> Result:
    """Trains and measures every network of the grid; those that `store` has finished already only when `fresh`."""
    cells = _cells(grid)
    folders = run_grid(cells, work, store, workers, listener, fresh=fresh)
    tables = collect(cells, folders, STRUCTURE)
    tables = {"summary": summary(tables), **_split_gradient(tables)}
    settings = {"variants": {k: dict(v) for k, v in VARIANTS.items()}, "width": WIDTH, **asdict(grid)}
    return Result("depth", QUESTION, tuple(verdicts(tables)), tables, settings, versions())


def _split_gradient(tables: Tables) -> Tables:
    """The gradient of weight layers and that at merges are measured together, and shown apart."""
    gradient = tables["gradient"]
    layers = gradient[gradient["what"] == "weight"].rename(columns={"name": "layer"})
    merges = gradient[gradient["what"] == "skip"].rename(columns={"name": "id"})
    return {**tables, "gradient": layers.drop(columns="what"), "merge_gradient": merges.drop(columns="what")}


def work(settings: dict[str, Any], folder: Path, report: Report) -> None:
    """One cell: a network of one variant, depth and seed."""
    recipe = Recipe(**settings["recipe"])
    options = VARIANTS[settings["variant"]]
    build = lambda: resnet(settings["depth"], width=settings["width"], in_channels=1, **options)  # noqa: E731
    save(examine(seeded(build, settings["seed"]), digits(), recipe, folder, report, settings["device"]), folder)


def _cells(grid: Grid) -> list[Cell]:
    cells = []
    for variant in VARIANTS:
        for depth in sorted(set(grid.depths)):
            for seed in range(grid.seeds):
                recipe = replace(grid.recipe, seed=seed)
                settings = config(
                    recipe, study="depth", variant=variant, depth=depth, width=WIDTH, seed=seed, device=grid.device
                )
                # A lesion of each block costs half a forward pass: quadratic in depth, but small beside training.
                cells.append(Cell(f"{variant}-{depth} seed {seed}", settings, cost=depth * recipe.epochs + 60))
    return cells


def summary(tables: Tables) -> pd.DataFrame:
    """One row a network: errors as mean and 95 % interval over the seeds that did not diverge."""
    rows = []
    for (variant, depth), runs in tables["runs"].groupby(["variant", "depth"], sort=False):
        row: dict[str, Any] = {"variant": variant, "depth": depth, "seeds": len(runs)}
        row["diverged"] = int((runs["status"] == "diverged").sum())
        for error in ("train_error", "test_error"):
            interval = student(runs[error])
            row |= {error: interval.mean, f"{error}_low": interval.low, f"{error}_high": interval.high}
        row["parameters"] = int(runs["parameters"].iloc[0])
        rows.append(row)
    structure = tables["census"][["variant", "depth", "skips", "fewest", "paths"]]
    return pd.DataFrame(rows).merge(structure, on=["variant", "depth"])
