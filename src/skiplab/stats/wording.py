"""Numbers of a table in words, with their intervals: of 95 %, over samples."""

import math
from typing import Any

import numpy as np
import pandas as pd

from skiplab.stats.intervals import t_interval


def finite_in(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """The rows whose value in this column is finite."""
    return table[np.isfinite(table[column].astype(float))]


def row_at(table: pd.DataFrame, place: Any) -> pd.Series:
    """One row by its position."""
    return table.iloc[place]


def farthest(table: pd.DataFrame, column: str) -> pd.Series:
    """The row with the largest absolute value."""
    return row_at(table, table[column].abs().argmax())


def interval_of(row: pd.Series, column: str) -> tuple[float, float]:
    """Student's t around a mean over samples; NaN where there is one sample."""
    return t_interval(float(row[column]), float(row[f"{column}_std"]), int(row["samples"]))


def intervals_of(table: pd.DataFrame, column: str) -> list[tuple[float, float]]:
    """`interval_of` every row."""
    return [interval_of(row, column) for _, row in table.iterrows()]


def ends_of(row: pd.Series, column: str) -> tuple[float, float]:
    """The ends of an interval that the table holds."""
    return row[f"{column}_low"], row[f"{column}_high"]


def sign_counts(intervals: list[tuple[float, float]]) -> str:
    """The signs of intervals: "of 9 intervals (95 %), 6 lie above zero, 3 include zero"."""
    known = [each for each in intervals if all(map(math.isfinite, each))]
    if not known:
        return "without an interval, since there is one sample"
    above, below = sum(low > 0 for low, _ in known), sum(high < 0 for _, high in known)
    counts = {"lie above zero": above, "lie below zero": below, "include zero": len(known) - above - below}
    parts = [f"{n} {verb.replace(' ', 's ', 1) if n == 1 else verb}" for verb, n in counts.items() if n]
    return f"of {plural(len(known), 'interval')} (95 %), {', '.join(parts)}"


def within(ends: tuple[float, float], form: str = ".2g") -> str:
    """ " (95 % interval 0.1 to 0.3)", or nothing where the interval is unknown."""
    low, high = ends
    return f" (95 % interval {low:{form}} to {high:{form}})" if math.isfinite(low) and math.isfinite(high) else ""


def extremes(table: pd.DataFrame, column: str, form: str = ".3g") -> str:
    """The least and the largest value, with the ids of their rows."""
    if len(table) == 1:
        return f"at `{table['id'].iloc[0]}`"
    least, most = row_at(table, table[column].argmin()), row_at(table, table[column].argmax())
    return f"from {least[column]:{form}} (`{least['id']}`) to {most[column]:{form}} (`{most['id']}`)"


def spread(values: pd.Series) -> float:
    """The largest over the smallest positive value; NaN without any."""
    positive = values[values > 0]
    return float(positive.max() / positive.min()) if len(positive) else math.nan


def times(ratio: float) -> str:
    """ "2.5 times"."""
    return f"{short(ratio)} times"


def short(number: float) -> str:
    """Three digits, and whole numbers above."""
    return f"{number:,.0f}" if abs(number) >= 999.5 else f"{number:.3g}"


def counted(table: pd.DataFrame, what: str) -> str:
    """The number of rows: "3 skips"."""
    return plural(len(table), what)


def plural(count: int, what: str) -> str:
    """ "1 skip", "2 skips"."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def memory(size: float) -> str:
    """Bytes for people to read: "3.5 MiB"."""
    power = min(3, int(math.log2(size) // 10)) if size >= 1 else 0
    return f"{size / 2 ** (10 * power):.3g} {('B', 'KiB', 'MiB', 'GiB')[power]}"
