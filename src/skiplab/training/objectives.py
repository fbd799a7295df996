"""What is asked of a model, as its targets say: classes, or values to come near to. Loss and error of each.

Both are means over what is counted, so that those of a whole part follow exactly from sums over its batches.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from skiplab.data import IGNORED, DataSet, Split
from skiplab.errors import DataError

REGRESSION_CHANCE = 1.0  # the error of chance for values, which that for classes never is


@dataclass(frozen=True)
class Classification:
    """Class indices (N, ...) from scores (N, C, ...): cross-entropy in nats, and the share that is wrong.

    `complete`: whether every place of the part asks something; those that ask nothing count nowhere.
    """

    complete: bool

    def loss(self, output: Tensor, y: Tensor) -> Tensor:
        """What a step lowers: the mean over what the batch asks; 0 where that is nothing."""
        if self.complete:
            return F.cross_entropy(output, y)
        return F.cross_entropy(output, y, ignore_index=IGNORED, reduction="sum") / self.count(y).clamp(min=1)

    def error(self, output: Tensor, y: Tensor) -> Tensor:
        """The share of wrong answers; 0 where nothing is asked."""
        return _wrong(output, y) / self.count(y).clamp(min=1)

    def sums(self, output: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Loss and error, each times what is counted."""
        return F.cross_entropy(output, y, ignore_index=IGNORED, reduction="sum"), _wrong(output, y)

    def count(self, y: Tensor) -> Tensor:
        return (y != IGNORED).sum()


@dataclass(frozen=True)
class Regression:
    """Values (N, ...) from outputs of their shape: the mean squared error, and that as a share of the variance.

    The error is the share of the targets' variance that is left unexplained (dimensionless; 1 − R², Draper and
    Smith 1998, §1.3): 0 for a perfect model, 1 for one that always says the mean. `variance` is that of the part,
    each value about the mean of its own place over the examples; where it is 0 there is no error, and it is NaN.
    """

    variance: float

    def loss(self, output: Tensor, y: Tensor) -> Tensor:
        """What a step lowers: the mean squared error."""
        return F.mse_loss(output, y)

    def error(self, output: Tensor, y: Tensor) -> Tensor:
        """The batch's mean squared error over the part's variance, so that the mean over batches is the part's."""
        return F.mse_loss(output.detach(), y) / (self.variance or torch.nan)

    def sums(self, output: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Loss and error, each times what is counted."""
        squares = F.mse_loss(output, y, reduction="sum")
        return squares, squares / (self.variance or torch.nan)

    def count(self, y: Tensor) -> Tensor:
        return torch.tensor(y.numel(), device=y.device)


Task = Classification | Regression


def task_of(split: Split) -> Task:
    """What the targets of a part ask for."""
    if not split.y.is_floating_point():
        return Classification(complete=not bool((split.y == IGNORED).any()))
    return Regression(variance=float(split.y.float().var(dim=0, correction=0).mean()))


def chance(split: Split) -> float:
    """The error of always saying the commonest class, or, of values, the mean."""
    if split.y.is_floating_point():
        return REGRESSION_CHANCE
    asked = split.y[split.y != IGNORED]
    return 1 - int(torch.bincount(asked).max()) / len(asked)


def check_output(output: object, split: Split, data: DataSet) -> None:
    """`DataError` for what a model says to the first example, if it is no answer to what is asked."""
    example = f"an example of {data.name}, shape {tuple(split.x.shape[1:])},"
    if not isinstance(output, Tensor):
        raise DataError(
            f"the model turns {example} into a {type(output).__name__}, and one tensor can be learned from: wrap it in "
            "a module that returns the one that answers"
        )
    shape = tuple(output.shape[1:])
    wanted = tuple(split.y.shape[1:])
    if data.classes is None:
        if shape != wanted:
            raise DataError(
                f"the model turns {example} into {shape}, and its target has the shape {wanted}: build a model whose "
                "output is the target's shape, or give targets of the output's"
            )
    elif not (len(shape) and shape[0] >= data.classes and shape[1:] == wanted):
        places = " for each place" if wanted else ""
        raise DataError(
            f"the model turns {example} into {shape}, and {data.classes} classes{places} need "
            f"{(data.classes, *wanted)}: build it with num_classes={data.classes}"
        )


def _wrong(output: Tensor, y: Tensor) -> Tensor:
    return ((output.detach().argmax(dim=1) != y) & (y != IGNORED)).sum()
