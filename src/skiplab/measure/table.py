"""The result of a measure: a DataFrame that answers in sentences and draws its chart."""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, Self

import pandas as pd

from skiplab.errors import UsageError
from skiplab.measure import registry

P = ParamSpec("P")


class MeasureTable(pd.DataFrame):
    """A DataFrame that knows which measure it is of. Rows that are selected from it, copies and pickles know it too.

    `answer()` gives the result in words, `plot()` its chart, `describe_columns()` what the columns mean. `plot` takes
    the place of pandas' own accessor on purpose: `pd.DataFrame(table).plot` still has that.
    """

    _metadata = ["measure"]  # noqa: RUF012 (pandas' own mechanism, which copies these attributes)
    measure: str | None = None

    @classmethod
    def of(cls, measure: str, table: pd.DataFrame) -> Self:
        """The table as a result of the measure of this name."""
        result = cls(table)
        result.attrs = table.attrs
        result.measure = measure
        return result

    @property
    def _constructor(self) -> type["MeasureTable"]:
        return MeasureTable

    def sentences(self) -> list[str]:
        """What the table says, each sentence computed from its numbers."""
        return list(registry.load(self._name()).sentences(self))

    def answer(self) -> str:
        """The sentences as one text."""
        return " ".join(self.sentences())

    def plot(self) -> Any:  # type: ignore[override]  # pandas has a property here
        """The measure's Altair chart, as on the page of `skiplab measure --report`."""
        from skiplab.report.charts.measures import measure_chart  # Altair takes a while to import

        chart = registry.load(self._name()).chart
        if chart is None:
            raise UsageError(f"the measure {self.measure} has no chart: use `pd.DataFrame(table).plot`")
        return measure_chart(chart, self)

    def describe_columns(self) -> pd.DataFrame:
        """One row a column of the measure, by name: what it is (`doc`), and its `unit`."""
        columns = registry.load(self._name()).columns
        table = pd.DataFrame([(column.name, column.doc, column.unit) for column in columns])
        return table.set_axis(["column", "doc", "unit"], axis=1).set_index("column")

    def _name(self) -> str:
        if self.measure is None:
            raise UsageError("this table was put together from others: ask each of them, before they are joined")
        return self.measure


def measured(function: Callable[P, pd.DataFrame]) -> Callable[P, MeasureTable]:
    """Makes the function of a measure return its table as a `MeasureTable` of the function's name."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> MeasureTable:
        return MeasureTable.of(function.__name__, function(*args, **kwargs))

    return wrapper
