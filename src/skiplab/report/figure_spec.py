"""What a chart of a study shows, as data: the study writes it down, the report draws it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

PERCENT = ("share", "change")  # kinds of numbers that are shown so


@dataclass(frozen=True)
class Axis:
    """A column and how it is shown.

    `kind`: "number"; "log" (positive numbers by their logarithm, averaged as such); "share" (0 to 1, as
    percent); "change" (of a share, either way); "steps" (values side by side, in the order of the table).
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
        heading, how: what one sees, and how to read it.
        chart: "points" (one a seed, with mean and 95 % interval, over steps), "lines" (one a seed, with mean and
            interval, over numbers), "curves" (errors by epoch), "table", or what every network has of itself:
            "gradient" (by layer), "histogram" (of paths), "skips" (arcs with what was measured of them).
        table: whose rows are drawn; for "skips" the table that must be there.
        x, y: for points and lines; a chart for each y.
        by: the column whose values have colors.
        panel: a column for each of whose values there is a chart.
        where: only rows with these values.
        folded: shown when asked for.
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
        """The table that holds means and intervals of what is drawn."""
        return f"{self.name.replace('-', '_')}_means"
