"""A data set in memory, already split in two, and the batches drawn from it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from skiplab.errors import DataError
from skiplab.io.hashing import checksum

IGNORED = -100  # torch's own mark of a place whose class does not count


@dataclass(frozen=True, eq=False)
class Split:
    """Examples and what is asked of each: `x` (N, ...), and `y` as one of two kinds of target.

    int64: class indices, (N,) or, with a class for each place, (N, ...); −100 asks nothing at that place.
    float: values to come near to, (N, ...).
    """

    x: Tensor
    y: Tensor

    def __post_init__(self) -> None:
        if self.y.ndim == 0 or self.x.ndim == 0 or len(self.x) != len(self.y):
            shapes = f"x {tuple(self.x.shape)}, y {tuple(self.y.shape)}"
            raise DataError(f"a split needs one target for each example, x (N, ...) and y (N, ...); these are {shapes}")
        if len(self.y) == 0:
            raise DataError("a split without examples: give it at least one")
        if self.y.dtype != torch.int64 and not self.y.is_floating_point():
            raise DataError(
                f"targets are class indices, int64, or values, float; these are {self.y.dtype}: use y.long() or "
                "y.float()"
            )

    def __len__(self) -> int:
        return len(self.y)

    def to(self, device: torch.device | str) -> "Split":
        """The same examples on another device."""
        return Split(self.x.to(device), self.y.to(device))


@dataclass(frozen=True, eq=False)
class DataSet:
    """What a model learns from (`train`) and is judged by (`test`).

    `classes`: how many there are, with labels 0 … `classes` − 1; None where the targets are values.
    """

    name: str
    train: Split
    test: Split
    classes: int | None

    def __post_init__(self) -> None:
        for part, split in (("train", self.train), ("test", self.test)):
            if split.y.is_floating_point() != (self.classes is None):
                kind = "values, for which classes is None" if self.classes is not None else "no values: say how many"
                raise DataError(f"{self.name}: classes={self.classes}, and the {part} targets are {kind}")
            if self.classes is not None:
                self._must_be_classes(part, split.y, self.classes)

    def _must_be_classes(self, part: str, y: Tensor, classes: int) -> None:
        asked = y[y != IGNORED]
        if len(asked) == 0:
            raise DataError(f"{self.name}: nothing is asked in the {part} part, every label is {IGNORED}")
        low, high = int(asked.min()), int(asked.max())
        if low < 0 or high >= classes:
            raise DataError(
                f"{self.name}: the {part} labels are {low} … {high}; for classes={classes} they have to be "
                f"0 … {classes - 1}"
            )

    def fingerprint(self) -> dict[str, Any]:
        """Name, classes, shapes and a checksum, as JSON: equal for two data sets that hold the same bytes."""
        parts = {"train": self.train, "test": self.test}
        crc32 = checksum(values for split in parts.values() for values in (split.x, split.y))
        shapes = {part: list(split.x.shape) for part, split in parts.items()}
        return {"name": self.name, "classes": self.classes, **shapes, "crc32": crc32}


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
