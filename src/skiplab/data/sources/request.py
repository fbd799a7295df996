"""Which data, and which of them: what every kind of source is told."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from skiplab.errors import DataError, UsageError

NORMALISE = ("imagenet", "data", "none")

# What people call the part that a model was not trained on, in the order in which it is looked for.
JUDGED = ("test", "validation", "valid", "val", "dev")
LEARNED = ("train", "training")
_SAME = (JUDGED[1:], LEARNED)


@dataclass(frozen=True)
class Asked:
    """What the user asks for.

    Attributes:
        spec: the data, as the user wrote it.
        batch: examples a batch.
        samples: how many examples at most, drawn at random from `seed`; 0 for all of them.
        split: the part, such as `train`; None for the one that a model is judged by, where there are parts.
        normalise: how pictures are normalised; None for `imagenet` with three channels and `data` otherwise.
        columns: for `x` and `y`, the name of the column or array that holds them.
        seed: of the draw.
    """

    spec: str
    batch: int = 64
    samples: int = 512
    split: str | None = None
    normalise: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.batch < 1 or self.samples < 0:
            raise UsageError(f"batch {self.batch}, samples {self.samples}: at least 1, and at least 0 (all of them)")
        if self.normalise is not None and self.normalise not in NORMALISE:
            raise UsageError(f"normalise {self.normalise}: choose {', '.join(NORMALISE)}")
        if wrong := set(self.columns) - {"x", "y"}:
            raise UsageError(f"column {', '.join(sorted(wrong))}: only x and y are chosen, as in x=image,y=label")

    def draw(self, count: int) -> list[int]:
        """Which of `count` examples: files and tables are often sorted by class, so that the first are no sample."""
        if not count:
            raise DataError(f"{self.spec} holds no example: check the path and the part of the data")
        order = torch.randperm(count, generator=torch.Generator().manual_seed(self.seed))
        return order[: self.samples or count].tolist()

    def part(self, names: set[str]) -> str:
        """Which of the parts that there are."""
        if self.split is None:
            return next((name for name in (*JUDGED, *LEARNED) if name in names), min(names))
        alike = next((group for group in _SAME if self.split in group), ())
        found = next((name for name in (self.split, *alike) if name in names), None)
        if found is None:
            there = f"its parts are {', '.join(sorted(names))}" if names else "it has no parts: leave out --split"
            raise DataError(f"{self.spec} has no part `{self.split}`; {there}")
        return found


PARTS = frozenset((*JUDGED, *LEARNED))
