"""Handwritten digits on cluttered canvases: a small segmentation task without a download."""

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.random import Generator
from torch import Tensor

from skiplab.data.digits import digits as handwritten
from skiplab.data.split import IGNORED, DataSet, Split
from skiplab.errors import DataError

SIZES = range(8, 17)  # side of a digit in pixels: from the original 8 to twice that
INK = 0.5  # smallest ink of a pixel that belongs to a digit; 1 is the darkest ink
NOISE = 0.1  # standard deviation, in units of the darkest ink
TRIES = 20  # attempts to place one more digit without overlap

Sized = list[np.ndarray]  # for each of SIZES, all digits of a split: (N, size, size), values 0 to 1


def canvases(
    size: int = 32,
    count: int = 1000,
    digits: int = 3,
    clutter: int = 6,
    seed: int = 0,
    classes: Literal["digit", "foreground"] = "digit",
) -> DataSet:
    """Canvases for segmentation: x (N, 1, size, size) float32, y (N, size, size) int64.

    A canvas has 1 to `digits` of scikit-learn's handwritten digits without overlap (fewer if there is no room), each
    scaled by a factor from 1 to 2, in front of `clutter` pieces: strokes, and rotated fragments of other digits.
    Gaussian noise is added (none with clutter=0). The target of a pixel is 1 + class where a digit has at least half of
    the darkest ink, else 0. Training and test canvases have different digits: the two splits of `digits(seed=seed)`.

    With the same seed, canvas i has the same digits at the same positions for any `count` and `clutter`. Pixels are
    standardized with the mean and standard deviation of the training canvases.

    Args:
        size: height and width in pixels, at least 16.
        count: number of training canvases; the test split has a quarter as many.
        digits: largest number of digits per canvas.
        clutter: number of clutter pieces per canvas.
        seed: seed of digits, positions, clutter and noise.
        classes: "digit" for 11 classes (background is 0), "foreground" for 2.

    Raises:
        DataError: an argument is out of range.
    """
    least = {"size": (size, SIZES[-1]), "count": (count, 1), "digits": (digits, 1), "clutter": (clutter, 0)}
    for name, (value, lowest) in least.items():
        if value < lowest:
            raise DataError(f"{name}={value}: give a number of at least {lowest}")
    if classes not in ("digit", "foreground"):
        raise DataError(f"classes={classes!r}: choose 'digit' or 'foreground'")
    source, parts = handwritten(seed=seed), []
    low, high = source.train.x.min(), source.train.x.max()
    for number, (split, total) in enumerate(((source.train, count), (source.test, max(1, count // 4)))):
        ink = (split.x - low) / (high - low)
        sized = [F.interpolate(ink, (s, s), mode="bilinear")[:, 0].numpy() for s in SIZES]
        # Two generators, so that the digits do not depend on the clutter.
        placement_rng, clutter_rng = (np.random.default_rng((seed, number, stream)) for stream in range(2))
        pairs = [_digits(size, sized, split.y.numpy(), digits, placement_rng) for _ in range(total)]
        x = np.stack([_with_clutter(ink, target, sized, clutter, clutter_rng) for ink, target in pairs])
        y = torch.from_numpy(np.stack([target for _, target in pairs]))
        parts.append((torch.from_numpy(x).float()[:, None], y if classes == "digit" else (y > 0).long()))
    mean, deviation = parts[0][0].mean(), parts[0][0].std()
    train, test = (Split((x - mean) / deviation, y) for x, y in parts)
    return DataSet("canvases", train, test, classes=11 if classes == "digit" else 2)


def _digits(size: int, sized: Sized, labels: np.ndarray, most: int, rng: Generator) -> tuple[np.ndarray, np.ndarray]:
    """A canvas of digits whose bounding boxes do not overlap: ink and target, both (size, size)."""
    ink, target, taken = np.zeros((size, size), np.float32), np.zeros((size, size), np.int64), np.zeros((size, size))
    for _ in range(rng.integers(1, most + 1)):
        index, scale = rng.integers(len(labels)), rng.integers(len(SIZES))
        digit = sized[scale][index]
        for _ in range(TRIES):
            place = _random_position(digit, size, rng)
            if not taken[place].any():
                ink[place], target[place] = digit, np.where(digit >= INK, 1 + labels[index], 0)
                taken[place] = 1
                break
    return ink, target


def _with_clutter(ink: np.ndarray, target: np.ndarray, sized: Sized, pieces: int, rng: Generator) -> np.ndarray:
    """The canvas with clutter behind the digits, and noise added: (size, size)."""
    background = np.zeros_like(ink)
    for _ in range(pieces):
        if rng.random() < 0.5:
            np.maximum(background, _stroke(len(ink), rng), out=background)
        else:
            fragment = _fragment(sized, rng)
            place = _random_position(fragment, len(ink), rng)
            background[place] = np.maximum(background[place], fragment)
    noise = NOISE * rng.standard_normal(ink.shape) if pieces else 0
    return np.where(target > 0, ink, np.maximum(ink, background)) + noise


def _stroke(size: int, rng: Generator) -> np.ndarray:
    """A straight stroke, 1.5 pixels to either side of its axis, with 0.5 to 1 of the darkest ink."""
    start, angle, length = rng.uniform(0, size, 2), rng.uniform(0, 2 * np.pi), rng.uniform(4, 12)
    direction = np.array([np.sin(angle), np.cos(angle)])
    offset = np.moveaxis(np.indices((size, size)), 0, -1) - start
    along = np.clip(offset @ direction, 0, length)
    distance = np.linalg.norm(offset - along[..., None] * direction, axis=-1)
    return rng.uniform(0.5, 1) * np.clip(1.5 - distance, 0, 1)


def _fragment(sized: Sized, rng: Generator) -> np.ndarray:
    """The upper half of a random digit, rotated by a random multiple of 90°: locally it looks like a digit."""
    digits = sized[rng.integers(len(sized))]
    digit = digits[rng.integers(len(digits))]
    return np.rot90(digit[: len(digit) // 2], int(rng.integers(4)))


def _random_position(piece: np.ndarray, size: int, rng: Generator) -> tuple[slice, slice]:
    """A random position of a piece on a canvas, as two slices."""
    top, left = (int(rng.integers(size - side + 1)) for side in piece.shape)
    return slice(top, top + piece.shape[0]), slice(left, left + piece.shape[1])


def edges(y: Tensor) -> Tensor:
    """Pixels with a neighbor of another class, among eight: bool (..., H, W) from int64 targets of the same shape.

    Neighbors with the target −100 are ignored, and such a pixel is no edge. Raises DataError for other targets.
    """
    return _near(y, 1)


def distances(y: Tensor, most: int) -> Tensor:
    """Chebyshev distance in pixels to the nearest pixel of another class, int64 (..., H, W), as the targets.

    It is 1 at `edges`, and `most` for all larger distances. Pixels with the target −100 are ignored, and get `most`.
    Raises DataError for other targets, and for `most` below 1.
    """
    if most < 1:
        raise DataError(f"most={most}: give a number of at least 1")
    result = torch.full_like(y, most)
    for distance in range(most - 1, 0, -1):
        result[_near(y, distance)] = distance
    return result


def _near(y: Tensor, radius: int) -> Tensor:
    """Pixels with another class within `radius` pixels in both directions."""
    if y.ndim < 2 or y.dtype != torch.int64:
        raise DataError(f"targets are {y.dtype} {tuple(y.shape)}: give one class per pixel, int64 (..., H, W)")
    valid, window = y != IGNORED, (2 * radius + 1, 1, radius)
    values = y.double().reshape(-1, 1, *y.shape[-2:])
    highest = F.max_pool2d(values, *window)  # −100 is below every class; the padding is −∞
    lowest = -F.max_pool2d((-values).masked_fill(~valid.reshape(values.shape), -torch.inf), *window)
    return (highest != lowest).reshape(y.shape) & valid
