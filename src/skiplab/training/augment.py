"""Other views of the pictures of a batch: shifted by a few pixels, and mirrored; all of a batch at once.

Krizhevsky 2012's crops and mirror images in the form that He et al. 2016, arXiv:1512.03385, §4.2 give them: padded
with zeros on each side, a window of the old size at random, and with even chance its mirror image.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from skiplab.data import DataSet
from skiplab.errors import DataError

Augment = Literal["none", "crop", "crop-flip"]


@dataclass(frozen=True)
class Draws:
    """What is drawn for each of N pictures: where its window starts in the padded one, and whether it is mirrored."""

    top: Tensor  # (N,) int64, 0 … 2 · padding
    left: Tensor  # (N,) int64, the same
    mirrored: Tensor  # (N,) bool


def check_images(data: DataSet, augment: Augment) -> None:
    """`DataError` where a shifted or mirrored example could have another target, or is no picture."""
    x, y = data.train.x, data.train.y
    if augment != "none" and (x.ndim != 4 or y.ndim != 1 or data.classes is None):
        raise DataError(
            f"augment={augment!r} needs pictures (N, C, H, W) with one class each, and {data.name} has x "
            f"{tuple(x.shape)}, y {tuple(y.shape)} {y.dtype}".replace("torch.", "")
            + ": choose augment='none'"
        )


def draw_augmentation(count: int, augment: Augment, padding: int, generator: torch.Generator) -> Draws:
    """Draws from `generator` (on the CPU), which they advance."""
    top, left = torch.randint(2 * padding + 1, (2, count), generator=generator)
    mirrored = torch.zeros(count, dtype=torch.bool)
    if augment == "crop-flip":
        mirrored = torch.rand(count, generator=generator) < 0.5
    return Draws(top, left, mirrored)


def augment_batch(x: Tensor, draws: Draws, padding: int) -> Tensor:
    """The pictures (N, C, H, W) as drawn, in the same memory format."""
    top, left, mirrored = (each.to(x.device) for each in (draws.top, draws.left, draws.mirrored))
    height, width = x.shape[2:]
    windows = F.pad(x, (padding,) * 4).unfold(2, height, 1).unfold(3, width, 1)  # (N, C, 2p + 1, 2p + 1, H, W), no copy
    x = windows[torch.arange(len(x), device=x.device), :, top, left]
    return torch.where(mirrored[:, None, None, None], x.flip(3), x) if mirrored.any() else x
