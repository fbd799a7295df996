import numpy as np
import pytest
import torch
from scipy.stats import bootstrap

from skiplab.measure.lesions.bootstrap import intervals


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def ones(count: int) -> torch.Tensor:
    return torch.ones(count, dtype=torch.double)


def test_against_scipy() -> None:
    values = normal(150, 3).exp()
    low, high = intervals(values, ones(150), seed=0)
    wanted = bootstrap((values.numpy(),), np.mean, axis=0, n_resamples=2000, method="percentile", rng=1)
    # a quantile of 2,000 resamples is itself known to some 6 % of their deviation, a quarter of the interval
    slack = (high - low) / 4 * 0.3
    assert (abs(low - wanted.confidence_interval.low) < slack).all()
    assert (abs(high - wanted.confidence_interval.high) < slack).all()


def test_they_cover_the_truth_as_often_as_they_say() -> None:
    low, high = intervals(normal(100, 1000), ones(100), seed=0)
    covered = ((low < 0) & (high > 0)).mean()
    assert 0.92 < covered < 0.97


def test_columns_are_resampled_together() -> None:
    values = normal(20, 2)
    assert (intervals(values, ones(20), seed=3) == intervals(values.flip(1), ones(20), seed=3)[:, ::-1]).all()
    together, alone = intervals(values, ones(20), seed=3), intervals(values[:, :1], ones(20), seed=3)
    assert together[:, 0] == pytest.approx(alone[:, 0], rel=1e-12)
    assert (intervals(values, ones(20), seed=4) != together).all()


def test_scales_and_shifts_with_the_values() -> None:
    values = normal(20, 2)
    plain, moved = intervals(values, ones(20), seed=0), intervals(5 * values + 1, ones(20), seed=0)
    assert moved == pytest.approx(5 * plain + 1, rel=1e-10)


def test_a_larger_unit_weighs_more() -> None:
    """Two units of 1 and 3 samples: a mean is the first's value, the second's, or the weighted mean of both."""
    values, sizes = torch.tensor([[0.0], [4.0]], dtype=torch.double), torch.tensor([1.0, 3.0], dtype=torch.double)
    low, high = intervals(values, sizes, seed=0)
    assert (low, high) == (0, 4)
    many = normal(40, 1)
    equal = intervals(many, ones(40), seed=0)
    assert intervals(many, 7 * ones(40), seed=0) == pytest.approx(equal, rel=1e-12)
    heavy = torch.cat((torch.tensor([1e9], dtype=torch.double), ones(39)))
    low, high = intervals(many, heavy, seed=0)
    assert high == pytest.approx(float(many[0]), abs=1) or low == pytest.approx(float(many[0]), abs=1)


def test_no_interval_where_there_is_none() -> None:
    assert np.isnan(intervals(normal(1, 2), ones(1), seed=0)).all()
    values = normal(10, 3)
    values[4, 1] = torch.inf
    low, high = intervals(values, ones(10), seed=0)
    assert np.isnan(low).tolist() == np.isnan(high).tolist() == [False, True, False]
    assert intervals(normal(10, 0), ones(10), seed=0).shape == (2, 0)


def test_many_units_are_resampled_in_parts() -> None:
    """More than fit into one part; the mean's deviation is 1/√n."""
    low, high = intervals(normal(5000, 1), ones(5000), seed=0)
    assert high - low == pytest.approx(2 * 1.96 / 5000**0.5, rel=0.1)
