"""Examples that have been drawn, before they are batches."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from skiplab.errors import DataError

Picture = Path | bytes  # a picture's file, or what is in it


@dataclass(frozen=True, eq=False)
class Examples:
    """Drawn examples with their targets.

    Attributes:
        name: of the data, as the user wrote it.
        part: such as `test`; "" for data without parts.
        x: tensors (N, …), or pictures, which are read when they are needed.
        y: targets (N, …), or None.
        total: how many there were to draw from.
        parts: the names of all parts that the data have, "" for one without a name beside others.
        classes: of targets that are counted by alphabet, what each of them is called.
    """

    name: str
    part: str
    x: Tensor | list[Picture]
    y: Tensor | None
    total: int
    parts: frozenset[str] = frozenset()
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.y is not None and len(self.y) != len(self.x):
            raise DataError(f"{self.name}: {len(self.x)} examples and {len(self.y)} targets: give one for each")

    def __len__(self) -> int:
        return len(self.x)

    def example(self) -> Tensor | None:
        """Two examples to capture a model with; None where pictures take whatever size the model wants."""
        return self.x[:2] if isinstance(self.x, Tensor) else None


def classes(labels: Sequence[str], of: Sequence[str]) -> tuple[Tensor, tuple[str, ...]]:
    """Class indices of names, which count by alphabet over those of `of`, and these names in that order."""
    names = tuple(sorted(set(of)))
    index = {name: number for number, name in enumerate(names)}
    return torch.tensor([index[label] for label in labels], dtype=torch.int64), names
