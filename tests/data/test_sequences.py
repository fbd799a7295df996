"""Sequence tasks: their targets are computed again from the inputs alone, example by example."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skiplab.data import IGNORED, adding, copying, digits, pixels
from skiplab.errors import DataError


@settings(max_examples=20)
@given(st.integers(2, 30), st.integers(1, 20), st.integers(0, 5))
def test_adding_targets_are_the_sum_of_the_marked_values(length: int, count: int, seed: int) -> None:
    data = adding(length, count, 3, seed)
    for split, size in ((data.train, count), (data.test, 3)):
        assert (split.x.shape, split.y.shape, split.y.dtype) == ((size, length, 2), (size, 1), torch.float32)
        for steps, (target,) in zip(split.x.tolist(), split.y.tolist(), strict=True):
            marked = [t for t, (_, mark) in enumerate(steps) if mark == 1]
            assert all(mark in (0, 1) and 0 <= value < 1 for value, mark in steps)
            assert len(marked) == 2
            assert marked[0] < length // 2 <= marked[1]
            assert target == pytest.approx(sum(steps[t][0] for t in marked), abs=1e-6)


def test_addings_baseline_is_a_sixth() -> None:
    """The mean of 20,000 squared differences from 1; its standard error is about 0.0014."""
    y = adding(8, 20_000, 1).train.y
    assert (y - 1).square().mean().item() == pytest.approx(1 / 6, abs=0.006)


def test_marks_are_everywhere() -> None:
    x = adding(7, 500, 1).train.x
    assert torch.all(x[..., 1].sum(0) > 20)


@settings(max_examples=20)
@given(st.integers(1, 9), st.integers(1, 5), st.integers(2, 5), st.integers(0, 5))
def test_copying_asks_for_the_first_symbols_at_the_last_steps(lag: int, symbols: int, alphabet: int, seed: int) -> None:
    data = copying(lag, symbols, alphabet, 6, 4, seed)
    assert data.classes == alphabet
    for split, size in ((data.train, 6), (data.test, 4)):
        assert split.x.shape == (size, 2 * symbols + lag, alphabet + 2)
        assert torch.equal(split.x.sum(-1), torch.ones(size, 2 * symbols + lag))
        for steps, target in zip(split.x.argmax(-1).tolist(), split.y.tolist(), strict=True):
            first = steps[:symbols]
            assert max(first) < alphabet
            assert steps[symbols:] == [alphabet] * (lag - 1) + [alphabet + 1] + [alphabet] * symbols
            assert target == [IGNORED] * (symbols + lag) + first


def test_copyings_symbols_are_equally_frequent() -> None:
    y = copying(1, 5, 8, 4000, 1).train.y
    shares = torch.bincount(y[y != IGNORED], minlength=8) / (4000 * 5)
    assert torch.all((shares - 1 / 8).abs() < 0.012)


def test_pixels_are_the_digits_row_by_row() -> None:
    ours, whole = pixels(0.3, seed=2), digits(0.3, seed=2)
    for split, images in ((ours.train, whole.train), (ours.test, whole.test)):
        assert split.x.shape[1:] == (64, 1)
        assert torch.equal(split.y, images.y)
        assert all(torch.equal(split.x[:, 8 * i + j, 0], images.x[:, 0, i, j]) for i in range(8) for j in range(8))


@pytest.mark.parametrize("build", [adding, copying])
def test_the_seed_decides_and_the_parts_differ(build: Any) -> None:
    same, again, other = (build(12, count=40, tests=40, seed=seed) for seed in (1, 1, 2))
    assert same.fingerprint() == again.fingerprint() != other.fingerprint()
    assert not torch.equal(same.train.x, same.test.x)
    assert not torch.equal(same.train.y, same.test.y)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: adding(1), "length=1"),
        (lambda: adding(count=0), "count=0"),
        (lambda: copying(0), "lag=0"),
        (lambda: copying(symbols=0), "symbols=0"),
        (lambda: copying(alphabet=1), "alphabet=1"),
        (lambda: copying(tests=0), "tests=0"),
    ],
)
def test_requests_that_make_no_sense(build: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        build()
