"""Intervals over seeds, and comparisons paired by seed."""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with its 95 % interval; the ends are NaN where a single value gives none."""

    mean: float
    low: float
    high: float
    count: int

    @property
    def half(self) -> float:
        """Half of the interval's width."""
        return (self.high - self.low) / 2

    @property
    def known(self) -> bool:
        """Whether there is an interval."""
        return math.isfinite(self.half)

    @property
    def effect(self) -> float:
        """The mean in standard deviations of its values, corrected for their small number.

        Of paired differences, Cohen's d_z with Hedges' factor 1 − 3 / (4 (n − 1) − 1): Hedges 1981, "Distribution
        Theory for Glass's Estimator of Effect Size". NaN for fewer than three values, and for values that are all the
        same.
        """
        freedom = self.count - 1
        if freedom < 2 or not self.half > 0:
            return math.nan
        deviation = self.half * math.sqrt(self.count) / float(stats.t.ppf(0.975, freedom))
        return self.mean / deviation * (1 - 3 / (4 * freedom - 1))

    def excludes(self, value: float) -> bool:
        """Whether the interval is known and lies wholly above or below `value`."""
        return self.known and not self.low <= value <= self.high


def t_interval(mean: float, deviation: float, count: int) -> tuple[float, float]:
    """Ends of a mean's 95 % interval by Student's t; NaN for fewer than two values.

    Args:
        mean: of the values.
        deviation: their sample standard deviation (n − 1).
        count: number of values.
    """
    if count < 2:
        return math.nan, math.nan
    low, high = stats.t.interval(0.95, count - 1)  # scipy's `scale` must not be zero, so equal values need this form
    error = deviation / math.sqrt(count)
    return mean + float(low) * error, mean + float(high) * error


def student(values: "pd.Series | np.ndarray | list[float]") -> Interval:
    """Mean and 95 % interval by Student's t with n − 1 degrees of freedom; NaN and infinities are left out."""
    known = np.asarray(values, dtype=float)
    known = known[np.isfinite(known)]
    if not len(known):
        return Interval(math.nan, math.nan, math.nan, 0)
    mean = float(known.mean())
    deviation = float(known.std(ddof=1)) if len(known) > 1 else math.nan
    return Interval(mean, *t_interval(mean, deviation, len(known)), len(known))


def paired(a: pd.Series, b: pd.Series) -> Interval:
    """Interval of a − b over the seeds (the index) that both have."""
    a, b = a.align(b, join="inner")
    return student(a - b)


def paired_ratio(a: pd.Series, b: pd.Series) -> Interval:
    """Geometric mean of a / b over the seeds in which both are positive, with the interval of its logarithm."""
    a, b = a.align(b, join="inner")
    positive = (a > 0) & (b > 0)
    logs = student(np.log(a[positive].to_numpy(float)) - np.log(b[positive].to_numpy(float)))
    with np.errstate(over="ignore"):  # an end of the interval may be too large for a float
        low, mean, high = np.exp([logs.low, logs.mean, logs.high]).tolist()
    return Interval(mean, low, high, logs.count)
