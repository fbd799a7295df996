import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from skiplab.measure.moments import Moments
from skiplab.measure.norms import norm

NUMBERS = st.one_of(st.floats(-1e6, 1e6), st.just(float("nan")))


@given(
    values=arrays(np.float64, st.tuples(st.integers(1, 12), st.integers(1, 3)), elements=NUMBERS), cut=st.floats(0, 1)
)
def test_parts_joined_are_the_whole(values: np.ndarray, cut: float) -> None:
    moments = Moments()
    middle = round(cut * len(values))
    for part in (values[:middle], values[middle:]):
        if len(part):
            moments.add(torch.from_numpy(part.copy()))
    for column, mean, deviation in zip(values.T, moments.means(), moments.deviations(), strict=True):
        known = column[~np.isnan(column)]
        expected = [known.mean() if len(known) else np.nan, known.std(ddof=1) if len(known) > 1 else np.nan]
        assert [float(mean), float(deviation)] == pytest.approx(expected, rel=1e-9, abs=1e-6, nan_ok=True)


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-22, 1.0, 1e25])
@pytest.mark.parametrize("dim", [None, 1])
def test_norms_of_vanishing_and_exploding_values(scale: float, dim: int | None) -> None:
    value = torch.arange(1.0, 13).reshape(3, 4) * scale
    expected = torch.linalg.vector_norm(value.double(), dim=dim)
    torch.testing.assert_close(norm(value, dim), expected, rtol=1e-6, atol=0)
    assert norm(value, dim).dtype == torch.double
