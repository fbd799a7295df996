"""The band of path lengths, and that sentence, chart and measure give the same one."""

import math
import re
from fractions import Fraction

import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from skiplab import measure
from skiplab.measure.lengths import sentences
from skiplab.report.charts.signals import lengths_chart
from skiplab.report.page import svg
from skiplab.stats.band import band

# Shares that reach 2.5 %, 50 % and 97.5 % exactly, at one length or another.
EXACT = (
    [0.025, 0.475, 0.475, 0.025],
    [0.02, 0.005, 0.475, 0.475, 0.02, 0.005],
    [0.0, 0.025, 0.95, 0.025, 0.0],
    [0.5, 0.5],
    [1.0],
)


def table(weights: list[float], paths: list[float] | None = None) -> pd.DataFrame:
    return pd.DataFrame({"length": range(len(weights)), "weight": weights, "path_share": paths or weights})


def remaining(weights: list[int], cut: Fraction) -> list[int]:
    """Lengths of which more than nothing remains when `cut` of the whole is taken away from each end, in fractions."""
    whole, below, remain = sum(weights), 0, []
    for length, weight in enumerate(weights):
        if min(Fraction(below + weight, whole), 1 - cut) > max(Fraction(below, whole), cut):
            remain.append(length)
        below += weight
    return remain


@given(st.lists(st.integers(0, 40), min_size=1, max_size=12), st.sampled_from([50, 80, 90, 95]))
def test_what_remains_between_the_cuts(weights: list[int], percent: int) -> None:
    assume(any(weights))
    remain = remaining(weights, Fraction(100 - percent, 200))
    assert band(table([float(weight) for weight in weights]), level=percent / 100) == (remain[0], remain[-1])


@pytest.mark.parametrize("weights", EXACT)
def test_an_exact_cut_leaves_the_inner_length(weights: list[float]) -> None:
    remain = remaining([round(1000 * weight) for weight in weights], Fraction(1, 40))
    assert band(table(weights)) == (remain[0], remain[-1])


def test_medians() -> None:
    assert band(table([0.25, 0.25, 0.25, 0.25]), level=0) == (2, 1)
    assert band(table([0.2, 0.6, 0.2]), level=0) == (1, 1)


def test_nothing_is_in_no_band() -> None:
    assert all(math.isnan(end) for end in band(table([0.0, 0.0])))


@pytest.mark.parametrize("weights", EXACT)
def test_sentence_and_chart_have_the_band_of_the_measure(weights: list[float]) -> None:
    low, high = measure.band(table(weights))
    _, middle = measure.band(table(weights), level=0)
    (sentence,) = sentences(table(weights))
    assert re.findall(r"\d+", sentence) == [str(n) for n in (95, low, high, middle, 95, low, high, middle)]
    labels = re.findall('aria-label="([^"]*)"', svg(lengths_chart(table(weights))))
    for what in ("gradient", "paths"):
        ends = (f"from: {low}; row", f"to: {high}; share of the: {what}")
        assert any(all(end in label for end in ends) for label in labels)
