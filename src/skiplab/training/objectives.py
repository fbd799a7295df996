"""Loss and error of a model, for classification and for regression.

Both are means over targets, so those of a split follow exactly from sums over its batches.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from skiplab.data import IGNORED, DataSet, Split
from skiplab.errors import DataError

REGRESSION_CHANCE = 1.0  # error of the constant mean; the chance error of classification is always below 1


@dataclass(frozen=True)
class Classification:
    """Scores (N, C, ...) for class indices (N, ...): cross-entropy in nats, and share of wrong predictions.

    Attributes:
        complete: whether no target of the split is ignored.
    """

    complete: bool

    def loss(self, output: Tensor, y: Tensor) -> Tensor:
        """Mean cross-entropy over the targets of the batch; 0 if all are ignored."""
        if self.complete:
            return F.cross_entropy(output, y)
        return F.cross_entropy(output, y, ignore_index=IGNORED, reduction="sum") / self.count(y).clamp(min=1)

    def error(self, output: Tensor, y: Tensor) -> Tensor:
        """Share of wrong predictions; 0 if all targets are ignored."""
        return _wrong(output, y) / self.count(y).clamp(min=1)

    def sums(self, output: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Sums of loss and error over the targets."""
        return F.cross_entropy(output, y, ignore_index=IGNORED, reduction="sum"), _wrong(output, y)

    def count(self, y: Tensor) -> Tensor:
        """Number of targets that are not ignored."""
        return (y != IGNORED).sum()


@dataclass(frozen=True)
class Regression:
    """Outputs (N, ...) for values of the same shape: mean squared error, and its ratio to the variance of the targets.

    The error is the unexplained share of the variance (dimensionless; 1 − R², Draper and Smith 1998, §1.3): 0 for a
    perfect model, 1 for the constant mean. It is NaN if the variance is 0.

    Attributes:
        variance: variance of the targets of the split over samples, averaged over all other dimensions.
    """

    variance: float

    def loss(self, output: Tensor, y: Tensor) -> Tensor:
        """Mean squared error."""
        return F.mse_loss(output, y)

    def error(self, output: Tensor, y: Tensor) -> Tensor:
        """Mean squared error of the batch, divided by the variance of the split."""
        return F.mse_loss(output.detach(), y) / (self.variance or torch.nan)

    def sums(self, output: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Sums of loss and error over the targets."""
        squares = F.mse_loss(output, y, reduction="sum")
        return squares, squares / (self.variance or torch.nan)

    def count(self, y: Tensor) -> Tensor:
        """Number of target values."""
        return torch.tensor(y.numel(), device=y.device)


Task = Classification | Regression


def task_of(split: Split) -> Task:
    """Classification for integer targets, regression for float targets."""
    if not split.y.is_floating_point():
        return Classification(complete=not bool((split.y == IGNORED).any()))
    return Regression(variance=float(split.y.float().var(dim=0, correction=0).mean()))


def chance(split: Split) -> float:
    """The error of a constant output: the most common class, or the mean for regression."""
    if split.y.is_floating_point():
        return REGRESSION_CHANCE
    valid = split.y[split.y != IGNORED]
    return 1 - int(torch.bincount(valid).max()) / len(valid)


def check_output(output: object, split: Split, data: DataSet) -> None:
    """Raises DataError if the output for the first sample is no tensor, or does not have the shape for the targets."""
    if not isinstance(output, Tensor):
        raise DataError(
            f"the model returns a {type(output).__name__} for the samples of {data.name}: wrap it in a module that "
            "returns one tensor"
        )
    shape, target_shape = tuple(output.shape[1:]), tuple(split.y.shape[1:])
    returned = f"the output of the model for a sample of {data.name} has shape {shape}"
    if data.classes is None:
        if shape != target_shape:
            raise DataError(f"{returned}, and its target {target_shape}: give a model or targets of equal shape")
    elif not (len(shape) and shape[0] >= data.classes and shape[1:] == target_shape):
        needed = (data.classes, *target_shape)
        raise DataError(f"{returned}, and {data.classes} classes need {needed}: build it with num_classes={needed[0]}")


def _wrong(output: Tensor, y: Tensor) -> Tensor:
    return ((output.detach().argmax(dim=1) != y) & (y != IGNORED)).sum()
