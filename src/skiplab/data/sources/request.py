"""The request for data, which every kind of source takes: name, part, number of samples, normalization."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from skiplab.errors import DataError, UsageError

NORMALIZE = ("imagenet", "data", "none")

# Names of the part that a model was not trained on; the first one found is used.
EVALUATION_PARTS = ("test", "validation", "valid", "val", "dev")
TRAINING_PARTS = ("train", "training")
_SYNONYMS = (EVALUATION_PARTS[1:], TRAINING_PARTS)


@dataclass(frozen=True)
class DataRequest:
    """The data that the user asks for.

    Attributes:
        spec: the data, as the user wrote it.
        batch_size: samples per batch.
        samples: largest number of samples, drawn at random from `seed`; 0 for all.
        split: the part, such as `train`; None for the one that a model is evaluated on, where there are parts.
        normalize: normalization of images; None for `imagenet` with three channels and `data` otherwise.
        columns: names of the columns or arrays for the keys `x` and `y`.
        seed: seed of the draw.

    Raises:
        UsageError: a number is out of range, or a name is unknown.
    """

    spec: str
    batch_size: int = 64
    samples: int = 512
    split: str | None = None
    normalize: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.samples < 0:
            raise UsageError(
                f"batch size {self.batch_size}, samples {self.samples}: give a batch size of at least 1, and at least "
                "0 samples (0 for all)"
            )
        if self.normalize is not None and self.normalize not in NORMALIZE:
            raise UsageError(f"normalize {self.normalize}: choose {', '.join(NORMALIZE)}")
        if wrong := set(self.columns) - {"x", "y"}:
            raise UsageError(f"column {', '.join(sorted(wrong))}: give only x and y, such as x=image,y=label")

    def draw(self, count: int) -> list[int]:
        """Indices of the drawn samples among `count`, in random order: files and tables are often sorted by class."""
        if not count:
            raise DataError(f"{self.spec} has no samples: check the path and --split")
        order = torch.randperm(count, generator=torch.Generator().manual_seed(self.seed))
        return order[: self.samples or count].tolist()

    def part(self, names: set[str]) -> str:
        """The name of the part to read, among the parts of the data; raises DataError if it is missing."""
        if self.split is None:
            return next((name for name in (*EVALUATION_PARTS, *TRAINING_PARTS) if name in names), min(names))
        synonyms = next((group for group in _SYNONYMS if self.split in group), ())
        found = next((name for name in (self.split, *synonyms) if name in names), None)
        if found is None:
            there = f"its parts are {', '.join(sorted(names))}" if names else "it has no parts: leave out --split"
            raise DataError(f"{self.spec} has no part `{self.split}`; {there}")
        return found


PARTS = frozenset((*EVALUATION_PARTS, *TRAINING_PARTS))
