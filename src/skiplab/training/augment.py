"""Random crops and horizontal flips of a batch of images, without a loop over images.

As in He et al. 2016, arXiv:1512.03385, §4.2: zero padding on each side, a random crop of the original size, and a
horizontal flip with probability 1/2.
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
    """The random augmentation of each of N images: the position of its crop in the padded image, and its flip."""

    top: Tensor  # (N,) int64, 0 … 2 · padding
    left: Tensor  # (N,) int64, 0 … 2 · padding
    flipped: Tensor  # (N,) bool


def check_images(data: DataSet, augment: Augment) -> None:
    """Raises DataError for augmentation of samples that are no images, or whose target could change with it."""
    x, y = data.train.x, data.train.y
    if augment != "none" and (x.ndim != 4 or y.ndim != 1 or data.classes is None):
        raise DataError(
            f"augment={augment!r} needs images (N, C, H, W) with one class each, and {data.name} has x "
            f"{tuple(x.shape)}, y {tuple(y.shape)} {y.dtype}".replace("torch.", "")
            + ": choose augment='none'"
        )


def draw_augmentation(count: int, augment: Augment, padding: int, generator: torch.Generator) -> Draws:
    """Draws the augmentation of `count` images from `generator`, which is on the CPU."""
    top, left = torch.randint(2 * padding + 1, (2, count), generator=generator)
    flipped = torch.zeros(count, dtype=torch.bool)
    if augment == "crop-flip":
        flipped = torch.rand(count, generator=generator) < 0.5
    return Draws(top, left, flipped)


def augment_batch(x: Tensor, draws: Draws, padding: int) -> Tensor:
    """The augmented images (N, C, H, W), in the memory format of `x`."""
    top, left, flipped = (tensor.to(x.device) for tensor in (draws.top, draws.left, draws.flipped))
    height, width = x.shape[2:]
    windows = F.pad(x, (padding,) * 4).unfold(2, height, 1).unfold(3, width, 1)  # (N, C, 2p + 1, 2p + 1, H, W), no copy
    x = windows[torch.arange(len(x), device=x.device), :, top, left]
    return torch.where(flipped[:, None, None, None], x.flip(3), x) if flipped.any() else x
