"""Selecting runs from a table, and comparing two networks seed by seed."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from skiplab.stats.intervals import Interval, paired, paired_ratio

RowFilter = Mapping[Any, Any]  # the value of each column: {"variant": "plain", "depth": 50}


def select_rows(table: pd.DataFrame, where: RowFilter) -> pd.DataFrame:
    """The rows whose columns have the values in `where`."""
    for name, value in where.items():
        table = table[table[name] == value]
    return table


def values_by_seed(table: pd.DataFrame, column: str, where: RowFilter) -> pd.Series:
    """A column of the selected rows, indexed by seed; several rows of one seed are averaged."""
    return select_rows(table, where).groupby("seed")[column].mean().astype(float)


def difference(table: pd.DataFrame, column: str, a: RowFilter, b: RowFilter) -> Interval:
    """The column in the rows `a` minus that in the rows `b`, paired by seed."""
    return paired(values_by_seed(table, column, a), values_by_seed(table, column, b))


def ratio(table: pd.DataFrame, column: str, a: RowFilter, b: RowFilter) -> Interval:
    """The column in the rows `a` over that in the rows `b`, paired by seed (geometric mean)."""
    return paired_ratio(values_by_seed(table, column, a), values_by_seed(table, column, b))


def distinct(table: pd.DataFrame, column: str) -> list[Any]:
    """The values of a column, without duplicates, in the order of the table."""
    return list(dict.fromkeys(table[column]))


def depth_range(table: pd.DataFrame) -> tuple[int, int]:
    """The smallest and the largest depth."""
    return int(table["depth"].min()), int(table["depth"].max())
