"""Intervals against scipy, and what they say of data with a known effect and with none."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from skiplab.stats.intervals import Interval, paired, paired_ratio, student, t_interval

NUMBERS = st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=20)


@given(NUMBERS)
def test_student_is_scipys_confidence_interval(values: list[float]) -> None:
    interval = student(values)
    assert interval.mean == pytest.approx(np.mean(values))
    if np.std(values) > 1e-6:
        wanted = stats.ttest_1samp(values, 0).confidence_interval(0.95)
        assert (interval.low, interval.high) == pytest.approx((wanted.low, wanted.high))


def test_one_value_gives_a_mean_and_no_interval() -> None:
    interval = student([0.5])
    assert interval.mean == 0.5
    assert not interval.known
    assert not interval.excludes(0)


def test_equal_values_give_an_interval_of_no_length() -> None:
    interval = student([0.5, 0.5, 0.5])
    assert (interval.low, interval.mean, interval.high) == (0.5, 0.5, 0.5)
    assert interval.excludes(0)


def test_the_interval_from_a_tables_mean_and_deviation() -> None:
    """Of 101 values: 1.98397 is the quantile that tables of Student's t have for 100 degrees of freedom."""
    assert t_interval(2.0, 3.0, 101) == pytest.approx((2 - 1.98397 * 3 / 101**0.5, 2 + 1.98397 * 3 / 101**0.5))
    assert all(map(math.isnan, t_interval(2.0, math.nan, 1)))


def test_no_value_gives_nothing() -> None:
    assert math.isnan(student([]).mean)
    assert math.isnan(student([math.nan, math.inf]).mean)


def test_what_diverged_is_left_out_and_counted() -> None:
    assert student([1.0, math.nan, 3.0]).count == 2


def test_pairing_by_seed_removes_what_the_seeds_share() -> None:
    noise = np.random.default_rng(0).normal(0, 10, 8)
    a, b = pd.Series(noise + 1, index=range(8)), pd.Series(noise, index=range(8))
    assert paired(a, b).excludes(0)
    assert not stats.ttest_ind(a, b).confidence_interval().low > 0


def test_pairing_uses_only_common_seeds() -> None:
    a, b = pd.Series([5.0, 1.0], index=[0, 1]), pd.Series([0.0, 9.0], index=[1, 2])
    assert paired(a, b) == student([1.0])


def test_ratio_is_geometric() -> None:
    a, b = pd.Series([10.0, 1000.0]), pd.Series([1.0, 1.0])
    assert paired_ratio(a, b).mean == pytest.approx(100)


def test_interval_coverage() -> None:
    """95 % of the intervals hold the true mean: 1,000 draws, far outside chance when the formula is off."""
    rng = np.random.default_rng(1)
    holds = [not student(rng.normal(2.0, 1.0, 3)).excludes(2.0) for _ in range(1000)]
    assert 930 <= sum(holds) <= 970


def test_excludes_is_about_both_ends() -> None:
    assert Interval(1, 0.5, 1.5, 3).excludes(0)
    assert Interval(-1, -1.5, -0.5, 3).excludes(0)
    assert not Interval(0.1, -0.1, 0.3, 3).excludes(0)
