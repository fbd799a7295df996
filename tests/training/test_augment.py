"""Crops and mirror images of whole batches, against the same done picture by picture."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from skiplab.data import DataSet, Split
from skiplab.errors import DataError
from skiplab.training.augment import Draws, augment_batch, check_images, draw_augmentation


def one_by_one(x: Tensor, draws: Draws, padding: int) -> Tensor:
    """Pixel by pixel: where each comes from, and zero where that lies outside."""
    count, _, height, width = x.shape
    out = torch.zeros_like(x)
    for n in range(count):
        for i in range(height):
            for j in range(width):
                column = width - 1 - j if draws.flipped[n] else j
                row = i + int(draws.top[n]) - padding
                column += int(draws.left[n]) - padding
                if 0 <= row < height and 0 <= column < width:
                    out[n, :, i, j] = x[n, :, row, column]
    return out


sizes = st.integers(1, 6)


@given(
    st.integers(0, 99),
    st.integers(1, 5),
    st.integers(1, 3),
    sizes,
    sizes,
    sizes,
    st.sampled_from(["crop", "crop-flip"]),
)
def test_a_batch_is_what_its_pictures_are(
    seed: int, count: int, channels: int, height: int, width: int, padding: int, augment: Any
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, channels, height, width, generator=generator)
    draws = draw_augmentation(count, augment, padding, generator)
    assert torch.equal(augment_batch(x, draws, padding), one_by_one(x, draws, padding))


@pytest.mark.parametrize("augment", ["crop", "crop-flip"])
def test_draws_are_even(augment: Any) -> None:
    """Each of the (2p + 1)² windows alike, by a χ² below its 99.9 % point (Wilson and Hilferty's approximation)."""
    draws = draw_augmentation(9000, augment, 1, torch.Generator().manual_seed(0))
    counts = torch.bincount(3 * draws.top + draws.left, minlength=9)
    assert len(counts) == 9
    assert float(((counts - 1000) ** 2 / 1000).sum()) < 26.1  # 8 degrees of freedom
    share = float(draws.flipped.float().mean())
    assert abs(share - (0.5 if augment == "crop-flip" else 0.0)) < 3.3 * 0.5 / 9000**0.5


def test_every_picture_is_drawn_for_itself_and_the_memory_format_stays() -> None:
    x = torch.arange(64.0).reshape(1, 1, 8, 8).expand(200, 3, 8, 8)
    for layout in (torch.contiguous_format, torch.channels_last):
        given = x.contiguous(memory_format=layout)
        found = augment_batch(given, draw_augmentation(200, "crop-flip", 2, torch.Generator().manual_seed(1)), 2)
        assert len(found[:, 0].unique(dim=0)) > 40  # of 50
        assert found.is_contiguous(memory_format=layout)


def data(x: Tensor, y: Tensor, classes: int | None) -> DataSet:
    return DataSet("things", Split(x, y), Split(x, y), classes)


@pytest.mark.parametrize(
    ("things", "message"),
    [
        (data(torch.zeros(4, 6), torch.zeros(4).long(), 2), r"x \(4, 6\), y \(4,\) int64"),
        (data(torch.zeros(4, 1, 8, 8), torch.zeros(4, 8, 8).long(), 2), r"y \(4, 8, 8\) int64"),
        (data(torch.zeros(4, 1, 8, 8), torch.zeros(4), None), r"y \(4,\) float32"),
    ],
)
def test_what_may_not_be_moved(things: DataSet, message: str) -> None:
    check_images(things, "none")
    with pytest.raises(DataError, match=f"augment='crop' needs images.*things has .*{message}: choose"):
        check_images(things, "crop")
