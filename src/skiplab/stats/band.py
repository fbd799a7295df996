"""Ranges that hold a given share of a distribution."""

import math

import pandas as pd

_ROUNDING = 1e-12  # of a cumulative share that reaches a cut exactly


def band(table: pd.DataFrame, column: str = "weight", level: float = 0.95) -> tuple[float, float]:
    """The shortest and longest length that remain when (1 − level) / 2 of `column` is cut off at either end.

    A length is cut off when the cumulative share up to and including it (from below, or from above) is at most
    (1 − level) / 2: a cut that falls exactly between two lengths leaves the inner one. level=0 gives the upper and
    the lower median, which differ where a length is reached by exactly half of `column`.

    Args:
        table: one row a length, sorted by `length`: `length` and `column`.
        column: shares that are at least 0; their sum need not be 1.
        level: the share that remains, in [0, 1].

    Returns:
        (low, high), integers; (NaN, NaN) where `column` sums to zero.
    """
    total = table[column].sum()
    if not total > 0:
        return math.nan, math.nan
    share, cut = table[column].cumsum() / total, (1 - level) / 2
    low, high = share > cut + _ROUNDING, share >= 1 - cut - _ROUNDING
    return int(table["length"][low].iloc[0]), int(table["length"][high].iloc[0])
