"""Losses and metrics by name: functions (output, target) -> the batch's mean."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from skiplab.data.bound_batches import checked
from skiplab.errors import DataError, ModelError, UsageError, format_shape
from skiplab.graph.interpreter import Execution
from skiplab.graph.program import Program
from skiplab.loading.resolve import module_of
from skiplab.measure.ggn_probe import probe_of

Function = Callable[[Any, Any], Tensor]


@dataclass(frozen=True)
class Named:
    """A loss of torch's, of whatever a library's model returns.

    Attributes:
        function: torch's,  of (scores, target).
        aligned: scores and target in the form that it takes.
        wrong: whether each answer is wrong, from the same two; None where there is no right and wrong.
    """

    function: Function
    aligned: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    wrong: Function | None = None

    def __call__(self, output: Any, target: Tensor) -> Tensor:
        return self.function(*self.aligned(scores_of(output), target))

    def error(self, output: Any, target: Tensor) -> Tensor:
        """Share of wrong answers, 0 to 1."""
        assert self.wrong is not None
        scores, target = self.aligned(scores_of(output), target)
        return self.wrong(scores, target).float().mean()

    def probe(self, output: Any, target: Tensor, generator: torch.Generator) -> Tensor:
        """See `skiplab.measure.ggn_probe`."""
        return probe_of(self.function)(*self.aligned(scores_of(output), target), generator)


def _classes(scores: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Classes are the scores' second dimension, or their last for sequences of tokens."""
    if target.is_floating_point() and target.shape == scores.shape:  # a distribution over classes
        return scores, target
    if scores.ndim > 1 and target.shape == (*scores.shape[:1], *scores.shape[2:]):
        return scores, target
    if scores.ndim > 2 and target.shape == scores.shape[:-1]:
        return scores.movedim(-1, 1), target
    raise DataError(
        f"the model's output {format_shape(scores.shape)} holds no classes for targets {format_shape(target.shape)}: "
        "give --loss mse, bce or file.py:callable(output, target)"
    )


def _alike(scores: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """torch would repeat the smaller of two shapes, and measure something else."""
    if scores.numel() != target.numel() or len(scores) != len(target):
        raise DataError(
            f"the model's output {format_shape(scores.shape)} and the targets {format_shape(target.shape)} should have "
            "the same shape for this loss: choose another --loss, such as cross-entropy for classes"
        )
    return scores.reshape(target.shape), target.to(scores.dtype)


LOSSES: Mapping[str, Named] = {
    "cross-entropy": Named(F.cross_entropy, _classes, lambda scores, target: scores.argmax(1) != target),
    "mse": Named(F.mse_loss, _alike),
    "bce": Named(F.binary_cross_entropy_with_logits, _alike, lambda scores, target: (scores > 0) != (target > 0.5)),
}


def loss_of(spec: str) -> Function:
    """A loss by name, or the user's own."""
    return LOSSES[spec] if spec in LOSSES else _own(spec, "--loss", ", ".join(LOSSES))


def metric_of(spec: str | None, loss: str) -> Function | None:
    """The share of errors where the loss knows right and wrong, unless another or none is asked for."""
    if spec not in (None, "error"):
        return None if spec == "none" else _own(str(spec), "--metric", "error, none")
    if loss in LOSSES and LOSSES[loss].wrong is not None:
        return LOSSES[loss].error
    if spec == "error":
        raise UsageError(f"--metric error counts wrong classes, which --loss {loss} has not: leave it out")
    return None


def scores_of(output: Any) -> Tensor:
    """The tensor that a loss is taken of: an output's `logits` or `out`, or its first tensor."""
    if isinstance(output, Mapping):
        output = next((output[name] for name in ("logits", "out") if name in output), next(iter(output.values()), None))
    while isinstance(output, (tuple, list)) and output:
        output = output[0]
    if not isinstance(output, Tensor):
        raise DataError(f"the model returns a {type(output).__name__}: give --loss file.py:callable(output, target)")
    return output


def try_on(program: Program, batches: Iterable[Any], functions: Iterable[Function | None], labels: Any) -> None:
    """Runs the network and these functions on one batch, before anything takes long; see `check`."""
    given = next(checked(program, batches))
    with torch.no_grad():
        output = Execution(program, given.args, given.kwargs).finish()
        for function in functions:
            if function is not None:
                check(function, output, given.target, labels)


def check(function: Function, output: Any, target: Any, labels: Any) -> None:
    """Tries a loss or metric on one batch, before anything takes long; `labels` are all that are at hand."""
    if function is LOSSES["cross-entropy"] and isinstance(labels, Tensor) and not labels.is_floating_point():
        known, highest = _classes(scores_of(output), target)[0].shape[1], int(labels.max())
        if highest >= known:  # of which a GPU would say no more than that it failed
            raise DataError(
                f"labels go up to {highest}, and the model has {known} classes: build it with more, such as with "
                f"--kwargs '{{\"num_classes\": {highest + 1}}}', or give data with labels from 0"
            )
    try:
        value = function(output, target)
    except DataError:
        raise
    except Exception as error:
        where = f"output {_told(output)} and target {_told(target)}"
        raise DataError(f"the loss or metric fails on {where}: {type(error).__name__}: {error}") from error
    if not isinstance(value, Tensor) or value.numel() != 1:
        raise DataError(f"the loss or metric gives {_told(value)}: it should give the batch's mean, one number")


def _own(spec: str, option: str, names: str) -> Function:
    owner, colon, name = spec.rpartition(":")
    if not colon:
        raise UsageError(f"{option} {spec}: choose {names}, or file.py:callable(output, target)")
    try:
        module = module_of(owner)
    except ModelError as error:
        raise UsageError(f"{option} {spec}: {error}") from error.__cause__
    found = getattr(module, name, None)
    if not callable(found):
        raise UsageError(f"{option} {spec}: there is no function `{name}`")
    return cast(Function, found)


def _told(value: Any) -> str:
    return format_shape(value.shape) if isinstance(value, Tensor) else type(value).__name__
