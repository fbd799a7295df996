"""Axes and figures that several studies share."""

from dataclasses import replace
from typing import Any

from skiplab.report.figure_spec import TEST_ERROR, TRAIN_ERROR, Axis, Figure, lines, points

DEPTH = Axis("depth", "weight layers", "steps")
NETWORK = Axis("variant", "network", "steps")
HOW_POINTS = (
    "One point per seed; the tick is their mean, the line its 95 % interval (Student's t). A cross is a diverged run."
)
CURVES = Figure(
    name="training-curves",
    heading="Training curves",
    how="Error at the end of each epoch, in evaluation mode. One line per seed; solid: training part, dashed: test "
    "part.",
    chart="curves",
    table="curves",
)
CURVES_BY_DEPTH = replace(CURVES, panel="depth")
GRADIENT = Figure(
    name="gradient-by-layer",
    heading="Gradient by layer",
    how="Norm of the loss's gradient for each weight layer. Thin lines are seeds, the thick line is their geometric "
    "mean. A flat line means that all layers receive gradients of the same size. With batch norm, the gradients of "
    "deep plain networks tend to explode toward the input rather than vanish.",
    chart="gradient",
    table="gradient",
)
SKIPS = Figure(
    name="skips",
    heading="Skip connections",
    how="The operations of each network from left to right, by resolution. Each arc is a skip connection, drawn "
    "over its branch. Bars below each network: the rise of the loss when one branch is deleted without retraining; "
    "the size of the branch's output relative to the shortcut's; the norm of the loss's gradient at the merge "
    "before training.",
    chart="skips",
    table="skips",
)
HISTOGRAM = Figure(
    name="census",
    heading="Census",
    how="All paths from input to output, by their number of nonlinearities. A network without skip connections has "
    "one path.",
    chart="histogram",
    table="histogram",
)


def numbers(name: str, heading: str, table: str, how: str = "One row per seed.") -> Figure:
    """A table, hidden until unfolded."""
    return Figure(name=name, heading=heading, how=how, chart="table", table=table, folded=True)


PATHS = numbers("census-numbers", "Nonlinearities on paths", "census", "Exact counts.")
CENSUS_TABLES = (
    replace(PATHS, heading="Census in numbers"),
    numbers(
        "witness",
        "The most linear path",
        "witness",
        "The path with the fewest nonlinearities in each network, step by step.",
    ),
)
CENSUS = (HISTOGRAM, *CENSUS_TABLES)
NETWORKS = (GRADIENT, SKIPS, *CENSUS)


def errors(name: str, heading: str, x: Axis = DEPTH, **others: Any) -> Figure:
    """The final errors of all runs, one point per seed; `others` are fields of `Figure`."""
    drawn = points("runs", x, TRAIN_ERROR, TEST_ERROR)
    return Figure(**{"name": name, "heading": heading, "how": HOW_POINTS, **drawn, **others})


def path_lengths(how: str, **others: Any) -> Figure:
    """The share of the gradient on the paths through each number of branches, one chart per depth."""
    branches, share = Axis("length", "branches on the path"), Axis("weight", "share of the gradient", "share")
    drawn = {"heading": "Paths that carry the gradient", **lines("lengths", branches, share, panel="depth")}
    return Figure(**{"name": "path-lengths", "how": how, **drawn, **others})
