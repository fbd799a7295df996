"""The batches that measures run on, and the checks that every measure makes on them."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from skiplab.errors import DataError, UsageError
from skiplab.program import Program

Batch = tuple[Any, Any]  # (inputs, target); inputs are a tensor, or a tuple of the model's arguments
Loss = Callable[[Any, Any], Tensor]  # (output, target) -> the batch's mean, a scalar


def checked(program: Program, batches: Iterable[Batch]) -> Iterator[tuple[tuple[Any, ...], Any, int]]:
    """Each batch as (arguments, target, number of samples); DataError for what the program cannot take."""
    count = 0
    for count, batch in enumerate(batches, start=1):
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise DataError(f"batch {count} is no pair (inputs, target): wrap it, with None for no target")
        inputs, target = batch
        args = tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)
        yield args, target, _size(program, args, count)
    if not count:
        raise DataError("there is no batch to measure on: the iterable of batches is empty or used up")


def _size(program: Program, args: tuple[Any, ...], count: int) -> int:
    expected = [x for x in program.flatten(*program.example) if isinstance(x, Tensor)]
    try:
        given = [x for x in program.flatten(args) if isinstance(x, Tensor)]
    except UsageError as error:
        raise DataError(f"batch {count}: {error}") from None
    first = 1 if program.dynamic_batch else 0
    for want, got in zip(expected, given, strict=False):
        if got.shape[first:] != want.shape[first:]:
            wanted = tuple("any" if i < first else n for i, n in enumerate(want.shape))
            raise DataError(
                f"batch {count} has an input of shape {tuple(got.shape)} where {program.name} was captured "
                f"with {wanted}: capture it with inputs of this shape"
            )
    return next((len(x) for x in given if x.ndim), 1)


def finite(value: Tensor, what: str) -> float:
    """A scalar as a number; DataError when it is none, since a mean over it would hide where it came from."""
    number = float(value.detach())
    if not torch.isfinite(value).all():
        raise DataError(f"{what} is {number}: look for NaN or overflow in the data and the weights")
    return number
