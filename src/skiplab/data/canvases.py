"""Real digits on cluttered canvases: a small segmentation task that needs no download."""

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.random import Generator
from torch import Tensor

from skiplab.data.digits import digits as handwritten
from skiplab.data.split import IGNORED, DataSet, Split
from skiplab.errors import DataError

SIZES = range(8, 17)  # pixels of a digit's side: its own 8, up to doubled
INK = 0.5  # what a pixel has to have at least of the darkest ink, 1, to be of the digit
NOISE = 0.1  # standard deviation, where the darkest ink is 1
TRIES = 20  # of finding room for one more digit

Sized = list[np.ndarray]  # for each of SIZES all digits of a part, (N, size, size), 0 to 1


def canvases(
    size: int = 32,
    count: int = 1000,
    digits: int = 3,
    clutter: int = 6,
    seed: int = 0,
    classes: Literal["digit", "foreground"] = "digit",
) -> DataSet:
    """`count` canvases to train on and a quarter as many for the test: x (N, 1, size, size), y (N, size, size) int64.

    On each are 1 to `digits` of scikit-learn's handwritten digits (fewer where there is no room), one to two times as
    large as they are, in front of `clutter` pieces: strokes, and fragments of other digits, turned; over all lies
    noise (none with clutter=0). A pixel's target is 0, or 1 + class where a digit has at least half of the
    darkest ink, and there the canvas has that ink, whatever lies behind; `classes="foreground"` makes every such
    target 1. Training and test canvases are made of different digits, the two parts of `digits(seed=seed)`.

    With the same seed, canvas i has the same digits at the same places for any count and any clutter. Pixels are
    standardised by mean and standard deviation of the training canvases.
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
        # Two sequences, so that other clutter leaves the digits where they are.
        placing, cluttering = (np.random.default_rng((seed, number, which)) for which in range(2))
        pairs = [_digits(size, sized, split.y.numpy(), digits, placing) for _ in range(total)]
        x = np.stack([_in_clutter(drawn, target, sized, clutter, cluttering) for drawn, target in pairs])
        y = torch.from_numpy(np.stack([target for _, target in pairs]))
        parts.append((torch.from_numpy(x).float()[:, None], y if classes == "digit" else (y > 0).long()))
    (learn, learn_y), (judge, judge_y) = parts
    mean, deviation = learn.mean(), learn.std()
    train, test = Split((learn - mean) / deviation, learn_y), Split((judge - mean) / deviation, judge_y)
    return DataSet("canvases", train, test, classes=11 if classes == "digit" else 2)


def _digits(size: int, sized: Sized, labels: np.ndarray, most: int, rng: Generator) -> tuple[np.ndarray, np.ndarray]:
    """One canvas with digits alone, whose squares do not overlap: ink and target, both (size, size)."""
    drawn, target, taken = np.zeros((size, size), np.float32), np.zeros((size, size), np.int64), np.zeros((size, size))
    for _ in range(rng.integers(1, most + 1)):
        which, scale = rng.integers(len(labels)), rng.integers(len(SIZES))
        digit = sized[scale][which]
        for _ in range(TRIES):
            place = _somewhere(digit, size, rng)
            if not taken[place].any():
                drawn[place], target[place] = digit, np.where(digit >= INK, 1 + labels[which], 0)
                taken[place] = 1
                break
    return drawn, target


def _in_clutter(drawn: np.ndarray, target: np.ndarray, sized: Sized, pieces: int, rng: Generator) -> np.ndarray:
    """What is drawn on a canvas, with clutter behind and noise over it, (size, size)."""
    behind = np.zeros_like(drawn)
    for _ in range(pieces):
        if rng.random() < 0.5:
            np.maximum(behind, _stroke(len(drawn), rng), out=behind)
        else:
            fragment = _fragment(sized, rng)
            place = _somewhere(fragment, len(drawn), rng)
            behind[place] = np.maximum(behind[place], fragment)
    noise = NOISE * rng.standard_normal(drawn.shape) if pieces else 0
    return np.where(target > 0, drawn, np.maximum(drawn, behind)) + noise


def _stroke(size: int, rng: Generator) -> np.ndarray:
    """A straight stroke, one and a half pixels to either side and at least half as dark as the darkest ink."""
    start, angle, length = rng.uniform(0, size, 2), rng.uniform(0, 2 * np.pi), rng.uniform(4, 12)
    direction = np.array([np.sin(angle), np.cos(angle)])
    offset = np.moveaxis(np.indices((size, size)), 0, -1) - start
    along = np.clip(offset @ direction, 0, length)
    distance = np.linalg.norm(offset - along[..., None] * direction, axis=-1)
    return rng.uniform(0.5, 1) * np.clip(1.5 - distance, 0, 1)


def _fragment(sized: Sized, rng: Generator) -> np.ndarray:
    """The upper half of some digit, turned by some multiple of 90°: up close, as a digit looks."""
    digits = sized[rng.integers(len(sized))]
    digit = digits[rng.integers(len(digits))]
    return np.rot90(digit[: len(digit) // 2], int(rng.integers(4)))


def _somewhere(piece: np.ndarray, size: int, rng: Generator) -> tuple[slice, slice]:
    """A place for a piece on a canvas."""
    top, left = (int(rng.integers(size - side + 1)) for side in piece.shape)
    return slice(top, top + piece.shape[0]), slice(left, left + piece.shape[1])


def edges(y: Tensor) -> Tensor:
    """Which pixels of a target have another class among their eight neighbours: int64 (..., H, W) gives bool.

    Neighbours whose target is −100 do not count, and such a pixel is no edge.
    """
    return _near(y, 1)


def distances(y: Tensor, most: int) -> Tensor:
    """How many steps, each to one of eight neighbours, it is from a pixel to the nearest of another class.

    int64 (..., H, W) gives int64: 1 where `edges` are, and `most` stands for itself and all beyond. Pixels whose target
    is −100 are of no class, and have that too.
    """
    if most < 1:
        raise DataError(f"most={most}: give a number of at least 1")
    found = torch.full_like(y, most)
    for distance in range(most - 1, 0, -1):
        found[_near(y, distance)] = distance
    return found


def _near(y: Tensor, reach: int) -> Tensor:
    """Which pixels have another class at most `reach` steps away."""
    if y.ndim < 2 or y.dtype != torch.int64:
        raise DataError(f"edges are those of a class for each pixel, int64 (..., H, W), not {y.dtype} {tuple(y.shape)}")
    asked, window = y != IGNORED, (2 * reach + 1, 1, reach)
    values = y.double().reshape(-1, 1, *y.shape[-2:])
    highest = F.max_pool2d(values, *window)  # −100 is below every class, and beyond the border is −∞
    lowest = -F.max_pool2d((-values).masked_fill(~asked.reshape(values.shape), -torch.inf), *window)
    return (highest != lowest).reshape(y.shape) & asked
