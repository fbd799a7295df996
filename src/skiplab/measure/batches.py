"""The batches that measures run on: validated, split when they do not fit into memory, checked for NaN and infinity."""

import warnings
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor

from skiplab.data.bound_batches import Batch, BoundBatch, divisible, validate_batches
from skiplab.errors import DataError, UsageError
from skiplab.graph.program import Program
from skiplab.graph.rng import isolated_rng

Loss = Callable[[Any, Any], Tensor]  # (output, target) -> the batch's mean, a scalar
Result = TypeVar("Result")


def map_batches(
    program: Program, batches: Iterable[Batch], work: Callable[[BoundBatch], Result], largest: int | None = None
) -> Iterator[tuple[BoundBatch, Result]]:
    """`work` on every batch, in chunks of at most `largest` samples.

    A chunk that does not fit into memory is run again in halves, with a warning, and later batches are split alike.
    Therefore `work` must have no side effects before it returns. DataError when one sample does not fit.
    """
    for given in validate_batches(program, batches):
        largest = yield from map_chunks(program, given, work, largest)


def map_chunks(
    program: Program, given: BoundBatch, work: Callable[[BoundBatch], Result], largest: int | None = None
) -> Generator[tuple[BoundBatch, Result], None, int | None]:
    """`work` on chunks of one batch, as in `map_batches`; returns the chunk size that fits, if one is known."""
    pending = given.parts(largest or given.size)
    while pending:
        try:
            with own_randomness(program):
                result = work(pending[0])
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            largest = _halved(program, pending[0], error)
            pending = [part for whole in pending for part in whole.parts(largest)]
        else:
            yield pending.pop(0), result
    return largest


@contextmanager
def own_randomness(program: Program) -> Iterator[None]:
    """Random draws inside, such as a training graph's dropout, are the same each time; torch's state is restored."""
    device = next((tensor.device for tensor in program.tensors.values() if tensor.device.type != "cpu"), None)
    with isolated_rng(0, device):
        yield


def batch_loss(program: Program, given: BoundBatch, loss: Loss | None, output: Any) -> Tensor:
    """A batch's loss, to be differentiated: the mean when the function returns one value a sample."""
    if loss is None:
        raise UsageError("a gradient needs a loss: give a function (output, target) -> mean over the batch")
    value = loss(output, given.target)
    if not isinstance(value, Tensor) or not value.requires_grad:
        raise UsageError("the loss has no gradient, like an error rate or a detached output: give a differentiable one")
    return finite(program, given, value.mean() if value.ndim else value, "the loss")


def finite(program: Program, given: BoundBatch, value: Tensor, what: str) -> Tensor:
    """The value; DataError when it holds NaN or infinity, since a mean over it would hide their origin."""
    if not torch.isfinite(value).all():
        from skiplab.measure.nan_origin import find_origin  # it runs the network again

        shown = f" is {float(value.detach()):g}" if value.numel() == 1 else " holds NaN or infinity"
        raise DataError(f"{what}{shown}: {find_origin(program, given)}")
    return value


def _is_out_of_memory(error: BaseException) -> bool:
    """For CPU memory, torch has no exception type."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)


def _halved(program: Program, given: BoundBatch, error: BaseException) -> int:
    size = given.size // 2
    if not size or not divisible(program):
        why = "one sample" if not size else f"a batch of {given.size}, the only size that the program takes,"
        raise DataError(f"{why} does not fit into memory: measure fewer skips, or smaller inputs") from error
    warnings.warn(f"a batch of {given.size} samples does not fit into memory: continuing with {size}", stacklevel=3)
    return size
