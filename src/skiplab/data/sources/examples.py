"""The samples drawn from a data set, before batching."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from skiplab.errors import DataError

ImageFile = Path | bytes  # the path of an image file, or its content


@dataclass(frozen=True, eq=False)
class Examples:
    """Samples with targets.

    Attributes:
        name: name of the data, as the user wrote it.
        part: part of the data, such as `test`; "" for data without parts.
        x: a tensor (N, …), or image files, which are decoded batch by batch.
        y: targets (N, …), or None.
        total: number of samples in the part, before the draw.
        parts: names of all parts of the data; "" is an unnamed part next to named ones.
        classes: class names in alphabetical order, if classes have names.
    """

    name: str
    part: str
    x: Tensor | list[ImageFile]
    y: Tensor | None
    total: int
    parts: frozenset[str] = frozenset()
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.y is not None and len(self.y) != len(self.x):
            raise DataError(
                f"{self.name} has {len(self.x)} samples and {len(self.y)} targets: give one target per sample"
            )

    def __len__(self) -> int:
        return len(self.x)

    def example(self) -> Tensor | None:
        """Two samples to capture a model with; None for image files, which are resized to the model's input."""
        return self.x[:2] if isinstance(self.x, Tensor) else None


def class_indices(labels: Sequence[str], of: Sequence[str]) -> tuple[Tensor, tuple[str, ...]]:
    """Class indices (N,) of labels, and the class names: all names in `of`, in alphabetical order."""
    names = tuple(sorted(set(of)))
    index = {name: number for number, name in enumerate(names)}
    return torch.tensor([index[label] for label in labels], dtype=torch.int64), names
