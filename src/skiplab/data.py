"""Data sets small enough to live in memory, already split in two, and the batches drawn from them."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skiplab.errors import DataError
from skiplab.weights import checksum


@dataclass(frozen=True, eq=False)
class Split:
    """Examples and their labels: `x` (N, ...) float, `y` (N,) int64 class indices."""

    x: Tensor
    y: Tensor

    def __post_init__(self) -> None:
        if self.y.ndim != 1 or len(self.x) != len(self.y):
            shapes = f"x {tuple(self.x.shape)}, y {tuple(self.y.shape)}"
            raise DataError(f"a split needs one label for each example, x (N, ...) and y (N,); these are {shapes}")
        if len(self.y) == 0:
            raise DataError("a split without examples: give it at least one")
        if self.y.dtype != torch.int64:
            raise DataError(f"labels are class indices, int64; these are {self.y.dtype}: use y.long()")

    def __len__(self) -> int:
        return len(self.y)

    def to(self, device: torch.device | str) -> "Split":
        """The same examples on another device."""
        return Split(self.x.to(device), self.y.to(device))


@dataclass(frozen=True, eq=False)
class DataSet:
    """What a model learns from (`train`) and is judged by (`test`), with labels 0 … `classes` − 1."""

    name: str
    train: Split
    test: Split
    classes: int

    def __post_init__(self) -> None:
        for part, split in (("train", self.train), ("test", self.test)):
            low, high = int(split.y.min()), int(split.y.max())
            if low < 0 or high >= self.classes:
                raise DataError(
                    f"{self.name}: the {part} labels are {low} … {high}; for classes={self.classes} they "
                    f"have to be 0 … {self.classes - 1}"
                )

    def fingerprint(self) -> dict[str, Any]:
        """Name, classes, shapes and a checksum, as JSON: equal for two data sets that hold the same bytes."""
        parts = {"train": self.train, "test": self.test}
        crc32 = checksum(values for split in parts.values() for values in (split.x, split.y))
        shapes = {part: list(split.x.shape) for part, split in parts.items()}
        return {"name": self.name, "classes": self.classes, **shapes, "crc32": crc32}


def digits(test_fraction: float = 0.2, seed: int = 0) -> DataSet:
    """scikit-learn's 1,797 handwritten digits: x (N, 1, 8, 8) float32, ten classes, no download.

    Split at random from `seed` with the same share of every class in both parts, then standardised: one mean
    and one standard deviation, the training part's, for all pixels of both parts.
    Alpaydin and Kaynak 1998, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository.
    """
    from sklearn.datasets import load_digits  # takes a second, which only those who want digits should pay
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    tested = math.ceil(test_fraction * len(labels)) if 0 < test_fraction < 1 else 0
    if not 10 <= tested <= len(labels) - 10:
        raise DataError(
            f"test_fraction={test_fraction}: each part needs its ten classes, so give a share between "
            f"{10 / len(labels):.3f} and {1 - 10 / len(labels):.3f}"
        )
    parts = train_test_split(np.arange(len(labels)), test_size=tested, random_state=seed, stratify=labels)
    x = torch.from_numpy(images).float().reshape(-1, 1, 8, 8)
    y = torch.from_numpy(labels).long()
    learn, judge = (torch.from_numpy(np.sort(part)) for part in parts)
    mean, deviation = x[learn].mean(), x[learn].std()
    x = (x - mean) / deviation
    return DataSet("digits", Split(x[learn], y[learn]), Split(x[judge], y[judge]), classes=10)


def batches(split: Split, size: int, generator: torch.Generator | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """Every example once, as (x, y) with `size` examples each, the last batch with what is left.

    In order, or with a `generator` (on the CPU) in a new random order, which advances it by one permutation.
    """
    if size < 1:
        raise DataError(f"batch size {size}: give a number of at least 1")
    return _batches(split, size, generator)


def _batches(split: Split, size: int, generator: torch.Generator | None) -> Iterator[tuple[Tensor, Tensor]]:
    if generator is None:
        yield from zip(split.x.split(size), split.y.split(size), strict=True)
        return
    order = torch.randperm(len(split), generator=generator).to(split.y.device)
    for chosen in order.split(size):
        yield split.x[chosen], split.y[chosen]
