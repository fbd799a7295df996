"""A data set in memory with a training and a test split, and its batches."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from skiplab.errors import DataError
from skiplab.io.hashing import checksum

IGNORED = -100  # targets with this class are ignored, as in torch.nn.functional.cross_entropy


@dataclass(frozen=True, eq=False)
class Split:
    """Samples with targets.

    Attributes:
        x: inputs (N, ...).
        y: for classification, int64 class indices (N,) or (N, ...), where −100 is ignored; for regression, float
            values (N, ...).

    Raises:
        DataError: x and y differ in N, N is 0, or y has another dtype.
    """

    x: Tensor
    y: Tensor

    def __post_init__(self) -> None:
        if self.y.ndim == 0 or self.x.ndim == 0 or len(self.x) != len(self.y):
            shapes = f"x {tuple(self.x.shape)}, y {tuple(self.y.shape)}"
            raise DataError(f"a split needs one target per sample, x (N, ...) and y (N, ...), and has {shapes}")
        if len(self.y) == 0:
            raise DataError("a split has no samples: give at least one")
        if self.y.dtype != torch.int64 and not self.y.is_floating_point():
            raise DataError(f"targets are {self.y.dtype}: use y.long() for class indices, or y.float() for values")

    def __len__(self) -> int:
        return len(self.y)

    def to(self, device: torch.device | str) -> "Split":
        """The same samples on another device."""
        return Split(self.x.to(device), self.y.to(device))


@dataclass(frozen=True, eq=False)
class DataSet:
    """A training split and a test split.

    Attributes:
        name: name for messages and results.
        train: samples to train on.
        test: samples to evaluate on.
        classes: number of classes, with labels 0 … `classes` − 1; None for regression.

    Raises:
        DataError: targets do not match `classes`, or every target of a split is ignored.
    """

    name: str
    train: Split
    test: Split
    classes: int | None

    def __post_init__(self) -> None:
        for part, split in (("train", self.train), ("test", self.test)):
            if split.y.is_floating_point() != (self.classes is None):
                kind, fix = ("values", "None") if self.classes is not None else ("class indices", "their number")
                raise DataError(
                    f"{self.name}: classes={self.classes}, and the {part} targets are {kind}: give classes={fix}"
                )
            if self.classes is not None:
                self._check_classes(part, split.y, self.classes)

    def _check_classes(self, part: str, y: Tensor, classes: int) -> None:
        valid = y[y != IGNORED]
        if len(valid) == 0:
            raise DataError(f"{self.name}: all {part} labels are {IGNORED} (ignored): give at least one other")
        low, high = int(valid.min()), int(valid.max())
        if low < 0 or high >= classes:
            raise DataError(
                f"{self.name}: the {part} labels are {low} … {high}; with classes={classes} they must be 0 … "
                f"{classes - 1}"
            )

    def fingerprint(self) -> dict[str, Any]:
        """Name, classes, shapes and a checksum, as JSON; equal for data sets with equal tensors."""
        parts = {"train": self.train, "test": self.test}
        crc32 = checksum(values for split in parts.values() for values in (split.x, split.y))
        shapes = {part: list(split.x.shape) for part, split in parts.items()}
        return {"name": self.name, "classes": self.classes, **shapes, "crc32": crc32}


def batches(split: Split, size: int, generator: torch.Generator | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields every sample once, in batches (x, y) of `size` samples; the last batch may be smaller.

    The order is that of the split, or with a `generator` (on the CPU) a random permutation drawn from it.
    Raises DataError for a size below 1.
    """
    if size < 1:
        raise DataError(f"batch size {size}: give a number of at least 1")
    return _batches(split, size, generator)


def _batches(split: Split, size: int, generator: torch.Generator | None) -> Iterator[tuple[Tensor, Tensor]]:
    if generator is None:
        yield from zip(split.x.split(size), split.y.split(size), strict=True)
        return
    order = torch.randperm(len(split), generator=generator).to(split.y.device)
    for indices in order.split(size):
        yield split.x[indices], split.y[indices]
