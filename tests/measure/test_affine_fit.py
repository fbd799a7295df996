import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from oracles.affine import nonlinearity
from skiplab.measure.affine_fit import unexplained


def test_more_features_than_rows_are_fitted_on_their_inner_products() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(20, n, generator=generator, dtype=torch.double) for n in (50, 3))
    x, y = x + 5, y + x[:, :3]
    got = unexplained((x[::2], y[::2]), (x[1::2], y[1::2]))
    assert got == pytest.approx(nonlinearity(x.numpy(), y.numpy()), rel=1e-6)


@given(scale=st.floats(1e-3, 1e3), shift=st.floats(-10, 10), seed=st.integers(0, 99))
def test_invariant_to_scale_and_shift(scale: float, shift: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, y = (torch.randn(30, n, generator=generator, dtype=torch.double) for n in (4, 2))
    before = unexplained((x[::2], y[::2]), (x[1::2], y[1::2]))
    x, y = x * scale + shift, y * scale - shift
    assert unexplained((x[::2], y[::2]), (x[1::2], y[1::2])) == pytest.approx(before, rel=1e-6)


def test_a_constant_output_has_nothing_to_explain() -> None:
    x, y = torch.randn(8, 3), torch.ones(8, 2)
    assert math.isnan(unexplained((x[::2], y[::2]), (x[1::2], y[1::2])))


def test_a_constant_input_explains_nothing() -> None:
    """The mean of what was fitted is all that is left to predict."""
    x, y = torch.ones(8, 3), torch.arange(8.0)[:, None]
    assert unexplained((x[::2], y[::2]), (x[1::2], y[1::2])) == pytest.approx(1 + 1 / 5)
