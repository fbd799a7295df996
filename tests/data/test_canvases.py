from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from skiplab.data import IGNORED, DataSet, canvases, digits, distances, edges
from skiplab.data.canvases import INK, NOISE, SIZES, _digits
from skiplab.errors import DataError


@cache
def made(**options: Any) -> DataSet:
    return canvases(**{"count": 120, **options})


def unscaled(data: DataSet) -> tuple[Tensor, Tensor]:
    """Pixels of canvases without clutter, from 0 for paper to 1 for the darkest ink: all of either part are affine in
    it, and both ends occur among so many digits."""
    low, high = data.train.x.min(), data.train.x.max()
    train, test = ((part.x[:, 0] - low) / (high - low) for part in (data.train, data.test))
    return train, test


def test_shapes_and_classes() -> None:
    data = made(size=24)
    assert (data.train.x.shape, data.train.x.dtype) == ((120, 1, 24, 24), torch.float32)
    assert (data.test.x.shape, data.test.y.shape, data.test.y.dtype) == ((30, 1, 24, 24), (30, 24, 24), torch.int64)
    assert data.classes == 11
    assert data.train.y.unique().tolist() == list(range(11))
    assert data.train.x.mean().item() == pytest.approx(0, abs=1e-5)
    assert data.train.x.std().item() == pytest.approx(1, abs=1e-5)
    foreground = made(size=24, classes="foreground")
    assert foreground.classes == 2
    assert torch.equal(foreground.train.x, data.train.x)
    assert torch.equal(foreground.test.y, (data.test.y > 0).long())


def test_without_clutter_labels_are_where_the_ink_is() -> None:
    data = made(clutter=0)
    for ink, split in zip(unscaled(data), (data.train, data.test), strict=True):
        certain = (ink - INK).abs() > 1e-5
        assert torch.equal((ink > INK)[certain], (split.y > 0)[certain])
        assert torch.all(ink.flatten(1).max(1).values > 0.5)  # a digit on each canvas


def aligned(images: Tensor) -> Tensor:
    """Images (N, H, W) with their ink moved to the upper left of 16 × 16."""
    out = torch.zeros(len(images), 16, 16)
    for image, moved in zip(images, out, strict=True):
        rows, columns = (image > 1e-4).nonzero().unbind(1)
        piece = image[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        moved[: piece.shape[0], : piece.shape[1]] = piece
    return out


def test_digits_are_those_of_their_own_part_and_class() -> None:
    """Each lone digit is looked up among all digits of either part at all sizes: it is there once, with its label."""
    source = digits()
    low, high = source.train.x.min(), source.train.x.max()
    shelf = []
    for split in (source.train, source.test):
        ink = (split.x - low) / (high - low)
        sizes = [F.interpolate(ink, (s, s), mode="bilinear")[:, 0] for s in range(8, 17)]
        shelf.append(torch.cat([aligned(images) for images in sizes]).flatten(1))
    data = made(digits=1, clutter=0)
    for own, (inks, split) in enumerate(zip(unscaled(data), (data.train, data.test), strict=True)):
        distances = [torch.cdist(aligned(inks).flatten(1), each, p=float("inf")).min(1) for each in shelf]
        assert torch.all(distances[own].values < 1e-4)
        assert torch.all(distances[1 - own].values > 1e-2)
        classes = (source.train, source.test)[own].y.repeat(9)[distances[own].indices]
        assert torch.equal(split.y.flatten(1).max(1).values, 1 + classes)
        assert all(set(y.unique().tolist()) <= {0, int(label) + 1} for y, label in zip(split.y, classes, strict=True))
        sizes_used = distances[own].indices // len((source.train, source.test)[own])
        assert len(sizes_used.unique()) >= 8


def test_clutter_leaves_the_digits_as_they_are() -> None:
    """Same seed: same targets; and at a labelled pixel nothing but noise is added, and elsewhere often more."""
    clean, cluttered = made(clutter=0), made(clutter=8)
    assert torch.equal(clean.train.y, cluttered.train.y)
    assert torch.equal(clean.test.y, cluttered.test.y)
    ink, labelled = unscaled(clean)[0], clean.train.y > 0
    x = cluttered.train.x[:, 0]
    design = torch.stack((ink[labelled], torch.ones(int(labelled.sum()))), 1)
    slope, offset = torch.linalg.lstsq(design, x[labelled][:, None]).solution[:, 0]  # the standardisation
    rest = (x - offset) / slope - ink
    assert rest[labelled].std().item() == pytest.approx(NOISE, rel=0.05)
    assert rest[labelled].abs().max() < 6 * NOISE
    assert (rest[~labelled] > 6 * NOISE).float().mean() > 0.05
    assert rest[~labelled].min() > -6 * NOISE


def test_the_seed_decides_and_more_canvases_begin_like_fewer() -> None:
    first, other = made(seed=3), made(seed=4)
    assert canvases(count=120, seed=3).fingerprint() == first.fingerprint() != other.fingerprint()
    assert not torch.equal(first.train.y, other.train.y)
    assert torch.equal(made(seed=3, count=40).train.y, first.train.y[:40])


def test_there_are_one_to_so_many_digits() -> None:
    assert {len(y.unique()) - 1 for y in made(digits=1).train.y} == {1}
    assert {len(y.unique()) - 1 for y in made(digits=4, size=64).train.y} == {1, 2, 3, 4}


@given(st.integers(16, 40), st.integers(0, 2**32))
def test_digits_do_not_overlap(size: int, seed: int) -> None:
    """Digits that are squares of ink, no two alike, are whole squares on the canvas."""
    solid = [np.broadcast_to(np.float32(1), (10**6, side, side)) for side in SIZES]
    drawn, target = _digits(size, solid, np.arange(10**6), 6, np.random.default_rng(seed))
    assert np.array_equal(drawn > 0, target > 0)
    for label in set(target[target > 0].tolist()):
        rows, columns = (target == label).nonzero()
        side = rows.max() - rows.min() + 1
        assert side in SIZES
        assert len(rows) == side * (columns.max() - columns.min() + 1) == side**2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 15}, "size=15: give a number of at least 16"),
        ({"count": 0}, "count=0"),
        ({"digits": 0}, "digits=0"),
        ({"clutter": -1}, "clutter=-1: give a number of at least 0"),
    ],
)
def test_requests_that_make_no_sense(options: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        canvases(**options)


def edges_by_hand(y: Tensor) -> Tensor:
    height, width = y.shape
    found = torch.zeros(height, width, dtype=torch.bool)
    for i in range(height):
        for j in range(width):
            around = y[max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2]
            found[i, j] = y[i, j] != IGNORED and bool(((around != y[i, j]) & (around != IGNORED)).any())
    return found


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 2**32))
def test_edges_by_brute_force(height: int, width: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    y = torch.tensor([0, 0, 0, 1, 7, IGNORED])[torch.randint(6, (2, height, width), generator=generator)]
    assert torch.equal(edges(y), torch.stack([edges_by_hand(each) for each in y]))
    assert torch.equal(edges(y[0]), edges_by_hand(y[0]))


def test_edges_of_a_square_are_a_frame_two_pixels_wide() -> None:
    y = torch.zeros(1, 9, 9, dtype=torch.int64)
    y[0, 3:7, 3:7] = 4
    frame = torch.zeros(1, 9, 9, dtype=torch.bool)
    frame[0, 2:8, 2:8] = True
    frame[0, 4:6, 4:6] = False
    assert torch.equal(edges(y), frame)


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 4), st.integers(0, 2**32))
def test_distances_by_brute_force(height: int, width: int, most: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    y = torch.tensor([0, 0, 0, 0, 7, IGNORED])[torch.randint(6, (height, width), generator=generator)]
    found = distances(y[None], most)[0]
    pixels = [(i, j, int(y[i, j])) for i in range(height) for j in range(width) if y[i, j] != IGNORED]
    for i, j, own in pixels:
        others = [max(abs(i - k), abs(j - m)) for k, m, other in pixels if other != own]
        assert found[i, j] == min([*others, most])
    assert (found[y == IGNORED] == most).all()


def test_edges_need_a_class_for_each_pixel() -> None:
    with pytest.raises(DataError, match=r"targets are torch.int64 \(3,\): give one class per pixel"):
        edges(torch.zeros(3).long())
    with pytest.raises(DataError, match=r"float32"):
        edges(torch.zeros(3, 3))
