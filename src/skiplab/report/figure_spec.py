"""The specification of a study's figure, as data: the study declares it, the report draws it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict, Unpack

PERCENT = ("share", "change")  # kinds of axes shown in percent


@dataclass(frozen=True)
class Axis:
    """A column and how it is shown.

    `kind`: "number"; "log" (positive numbers on a logarithmic axis, with geometric means); "share" (0 to 1, in
    percent); "change" (of a share, positive or negative); "steps" (categories, in the order of the table).
    """

    column: str
    title: str
    kind: Literal["number", "log", "share", "change", "steps"] = "number"


TRAIN_ERROR, TEST_ERROR = Axis("train_error", "training error", "share"), Axis("test_error", "test error", "share")


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One section of a study's page.

    Attributes:
        name: of the chart's files.
        heading: title of the section.
        how: what the figure shows and how to read it.
        chart: "points" (one per seed, with mean and 95 % interval, over steps), "lines" (one per seed, with mean and
            interval, over numbers), "curves" (errors by epoch), "table", "gradient" (by layer), "histogram" (of
            paths) or "skips" (arcs with the measures of each skip).
        table: the table to draw; for "skips" a table that must exist.
        x, y: for points and lines; one chart per y.
        by: the column shown by color.
        panel: the column with one chart per value.
        where: draw only rows with these values.
        folded: hidden until unfolded.
    """

    name: str
    heading: str
    how: str
    chart: Literal["points", "lines", "curves", "gradient", "histogram", "skips", "table"]
    table: str
    x: Axis | None = None
    y: tuple[Axis, ...] = ()
    by: str = "variant"
    panel: str | None = None
    where: Mapping[str, Any] = field(default_factory=dict)
    folded: bool = False

    @property
    def means(self) -> str:
        """The name of the table with the figure's means and intervals."""
        return f"{self.name.replace('-', '_')}_means"


class Grouping(TypedDict, total=False):
    """How a chart splits its rows; the fields are those of `Figure`."""

    by: str
    panel: str | None
    where: Mapping[str, Any]


class Plot(Grouping):
    """The fields of a `Figure` that say what it draws."""

    chart: Literal["points", "lines"]
    table: str
    x: Axis
    y: tuple[Axis, ...]


def points(table: str, x: Axis, *y: Axis, **grouping: Unpack[Grouping]) -> Plot:
    """What a figure of points draws: `Figure(name=…, heading=…, how=…, **points("runs", DEPTH, TEST_ERROR))`."""
    return {"chart": "points", "table": table, "x": x, "y": y, **grouping}


def lines(table: str, x: Axis, *y: Axis, **grouping: Unpack[Grouping]) -> Plot:
    """What a figure of lines draws."""
    return {"chart": "lines", "table": table, "x": x, "y": y, **grouping}
