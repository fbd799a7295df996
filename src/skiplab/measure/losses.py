"""Losses and metrics by name, as functions (output, target) -> the batch's mean."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from skiplab.data.bound_batches import validate_batches
from skiplab.errors import DataError, ModelError, UsageError, format_shape
from skiplab.graph.interpreter import Execution
from skiplab.graph.program import Program
from skiplab.loading.user_code import load_module
from skiplab.measure.ggn_probe import probe_of

Function = Callable[[Any, Any], Tensor]


@dataclass(frozen=True)
class NamedLoss:
    """One of torch's losses, applied to whatever a library's model returns.

    Attributes:
        function: torch's, of (scores, target).
        aligned: brings scores and target into the form that it takes.
        wrong: whether each answer is wrong, from the same two; None for a loss without right and wrong.
    """

    function: Function
    aligned: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    wrong: Function | None = None

    def __call__(self, output: Any, target: Tensor) -> Tensor:
        """The batch's mean loss."""
        return self.function(*self.aligned(scores_of(output), target))

    def error(self, output: Any, target: Tensor) -> Tensor:
        """Share of wrong answers, 0 to 1."""
        assert self.wrong is not None
        scores, target = self.aligned(scores_of(output), target)
        return self.wrong(scores, target).float().mean()

    def probe(self, output: Any, target: Tensor, generator: torch.Generator) -> Tensor:
        """The loss's Gauss–Newton probe; see `skiplab.measure.ggn_probe`."""
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
        f"the model's output {_describe(scores)} has no classes for targets {_describe(target)}: use the loss mse, "
        "bce or file.py:callable(output, target)"
    )


def _alike(scores: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Scores and target of one shape; DataError otherwise, since torch would broadcast the smaller one."""
    if scores.numel() != target.numel() or len(scores) != len(target):
        raise DataError(
            f"the model's output {_describe(scores)} and the targets {_describe(target)} should have the same shape "
            "for this loss: use another one, such as cross-entropy for classes"
        )
    return scores.reshape(target.shape), target.to(scores.dtype)


LOSSES: Mapping[str, NamedLoss] = {
    "cross-entropy": NamedLoss(F.cross_entropy, _classes, lambda scores, target: scores.argmax(1) != target),
    "mse": NamedLoss(F.mse_loss, _alike),
    "bce": NamedLoss(F.binary_cross_entropy_with_logits, _alike, lambda scores, target: (scores > 0) != (target > 0.5)),
}


def named_loss(loss: Function | str) -> Function:
    """A loss by its name in `LOSSES`; a function is returned unchanged."""
    if not isinstance(loss, str):
        return loss
    if loss not in LOSSES:
        raise UsageError(f"loss {loss!r}: choose {', '.join(LOSSES)}, or give a function (output, target) -> mean")
    return LOSSES[loss]


def resolve_loss(loss: str) -> Function:
    """A loss as the command line names it: by its name in `LOSSES`, or as file.py:callable."""
    return LOSSES[loss] if loss in LOSSES else _import(loss, "loss", ", ".join(LOSSES))


def resolve_metric(metric: str | None, loss: str) -> Function | None:
    """A metric: file.py:callable, "none", or "error", the default where the loss has right and wrong."""
    if metric not in (None, "error"):
        return None if metric == "none" else _import(str(metric), "metric", "error, none")
    if loss in LOSSES and LOSSES[loss].wrong is not None:
        return LOSSES[loss].error
    if metric == "error":
        raise UsageError(f"the metric error counts wrong classes, and the loss {loss} has none: leave it out")
    return None


def scores_of(output: Any) -> Tensor:
    """The tensor that a loss takes: an output's `logits` or `out`, or its first tensor."""
    if isinstance(output, Mapping):
        output = next((output[name] for name in ("logits", "out") if name in output), next(iter(output.values()), None))
    while isinstance(output, (tuple, list)) and output:
        output = output[0]
    if not isinstance(output, Tensor):
        raise DataError(
            f"the model returns a {type(output).__name__}: give a loss of your own, file.py:callable(output, target)"
        )
    return output


def try_on(program: Program, batches: Iterable[Any], functions: Iterable[Function | None], labels: Any) -> None:
    """Runs the network and these functions on the first batch, to fail before the long work; see `check`."""
    given = next(validate_batches(program, batches))
    with torch.no_grad():
        output = Execution(program, given.args, given.kwargs).finish()
        for function in functions:
            if function is not None:
                check(function, output, given.target, labels)


def check(function: Function, output: Any, target: Any, labels: Any) -> None:
    """DataError unless the function gives one number for a batch, and the model has a class for each label."""
    if function is LOSSES["cross-entropy"] and isinstance(labels, Tensor) and not labels.is_floating_point():
        known, highest = _classes(scores_of(output), target)[0].shape[1], int(labels.max())
        if highest >= known:  # on a GPU this is an assertion without a message
            raise DataError(
                f"labels go up to {highest}, and the model has {known} classes: build it with more (--num-classes "
                f"{highest + 1}), or give data with labels from 0"
            )
    try:
        value = function(output, target)
    except DataError:
        raise
    except Exception as error:
        where = f"output {_describe(output)} and target {_describe(target)}"
        raise DataError(f"the loss or metric fails on {where}: {type(error).__name__}: {error}") from error
    if not isinstance(value, Tensor) or value.numel() != 1:
        raise DataError(f"the loss or metric gives {_describe(value)}: it should give the batch's mean, one number")


def _import(spec: str, kind: str, names: str) -> Function:
    owner, colon, name = spec.rpartition(":")
    if not colon:
        raise UsageError(f"{kind} {spec}: choose {names}, or file.py:callable(output, target)")
    try:
        module = load_module(owner)
    except ModelError as error:
        raise UsageError(f"{kind} {spec}: {error}") from error.__cause__
    found = getattr(module, name, None)
    if not callable(found):
        raise UsageError(f"{kind} {spec}: there is no function `{name}`")
    return cast(Function, found)


def _describe(value: Any) -> str:
    return format_shape(value.shape) if isinstance(value, Tensor) else type(value).__name__
