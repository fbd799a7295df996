"""The result of a measure: a DataFrame that answers in sentences and draws its chart."""

import pkgutil
from typing import Any, Self

import pandas as pd

from skiplab.errors import UsageError


class MeasureTable(pd.DataFrame):
    """A DataFrame that knows which measure it is of. Rows that are selected from it, copies and pickles know it too.

    `answer()` gives the result in words, `plot()` its chart, `describe_columns()` what the columns mean. `plot` takes
    the place of pandas' own accessor on purpose: `pd.DataFrame(table).plot` still has that.

    Attributes:
        source: the module whose `MEASURE` it is of; None for a table put together from several.
    """

    # The record is found by name: this class is part of the code of a study's run, which its cache key hashes, and
    # sentences and charts are not.
    _metadata = ["source"]  # noqa: RUF012 (pandas' own mechanism, which copies these attributes)
    source: str | None = None

    @classmethod
    def of(cls, source: str, table: pd.DataFrame) -> Self:
        """The table as a result of the measure in this module, `__name__` in a measure's file."""
        result = cls(table)
        result.attrs = table.attrs
        result.source = source
        return result

    @property
    def _constructor(self) -> type["MeasureTable"]:
        return MeasureTable

    def sentences(self) -> list[str]:
        """The result in sentences, each computed from the table's numbers."""
        return list(self._record().sentences(self))

    def answer(self) -> str:
        """The sentences as one text."""
        return " ".join(self.sentences())

    def plot(self) -> Any:  # type: ignore[override]  # pandas has a property here
        """The measure's Altair chart, as on the page of `skiplab measure --report`."""
        return self._record().plot(self)

    def describe_columns(self) -> pd.DataFrame:
        """One row a column of the measure, by name: what it is (`doc`), and its `unit`."""
        rows = [(column.name, column.doc, column.unit) for column in self._record().columns]
        return pd.DataFrame(rows).set_axis(["column", "doc", "unit"], axis=1).set_index("column")

    def _record(self) -> Any:
        if self.source is None:
            raise UsageError("this table was put together from others: ask each of them, before they are joined")
        return pkgutil.resolve_name(f"{self.source}:MEASURE")
