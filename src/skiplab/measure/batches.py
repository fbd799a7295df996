"""The batches that measures run on: checked, split where they fill the memory, and blamed for what is not finite."""

import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from skiplab.errors import DataError, UsageError
from skiplab.program import Program

# (inputs, target); inputs: a tensor, a tuple of arguments, a mapping of keyword arguments, or a tuple of arguments
# that such a mapping ends.
Batch = tuple[Any, Any]
Loss = Callable[[Any, Any], Tensor]  # (output, target) -> the batch's mean, a scalar
Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class Given:
    """One batch, as the model takes it; `size` is its number of samples, along the first dimension."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    target: Any
    size: int

    def part(self, start: int, stop: int) -> "Given":
        """Samples `start` up to `stop` alone: of every tensor that has one entry a sample."""

        def cut(value: Any) -> Any:
            own = isinstance(value, Tensor) and value.ndim > 0 and len(value) == self.size
            return value[start:stop] if own else value

        args, kwargs, target = pytree.tree_map(cut, (self.args, dict(self.kwargs), self.target))
        return replace(self, args=args, kwargs=kwargs, target=target, size=min(stop, self.size) - start)

    def parts(self, size: int) -> list["Given"]:
        """The same samples in batches of at most `size`."""
        if size >= self.size:
            return [self]
        return [self.part(start, start + size) for start in range(0, self.size, size)]


def checked(program: Program, batches: Iterable[Batch]) -> Iterator[Given]:
    """Each batch as the program takes it; DataError for what it cannot take."""
    count = 0
    for count, batch in enumerate(batches, start=1):
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise DataError(f"batch {count} is no pair (inputs, target): wrap it, with None for no target")
        inputs, target = batch
        args, kwargs = _arguments(program, inputs)
        yield Given(args, kwargs, target, _size(program, args, kwargs, count))
    if not count:
        raise DataError("there is no batch to measure on: the iterable of batches is empty or used up")


def each(
    program: Program, batches: Iterable[Batch], work: Callable[[Given], Result], largest: int | None = None
) -> Iterator[tuple[Given, Result]]:
    """`work` on every batch, in batches of at most `largest` samples.

    One that does not fit into memory is tried again in halves, with a warning, and so are all that follow it.
    `work` must therefore change nothing outside before it returns. DataError when one sample does not fit.
    """
    for given in checked(program, batches):
        largest = yield from in_parts(program, given, work, largest)


def in_parts(
    program: Program, given: Given, work: Callable[[Given], Result], largest: int | None = None
) -> Generator[tuple[Given, Result], None, int | None]:
    """`work` on the samples of one batch, as `each`; returns how many can be run at once, where that is known."""
    pending = given.parts(largest or given.size)
    while pending:
        try:
            result = work(pending[0])
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            largest = _halved(program, pending[0], error)
            pending = [part for whole in pending for part in whole.parts(largest)]
        else:
            yield pending.pop(0), result
    return largest


def finite(program: Program, given: Given, value: Tensor, what: str) -> Tensor:
    """The value; DataError where it holds NaN or infinity, since a mean over it would hide where that came from."""
    if not torch.isfinite(value).all():
        from skiplab.measure.blame import blame  # it runs the network again, which only an error is worth

        shown = f" is {float(value.detach()):g}" if value.numel() == 1 else " holds NaN or infinity"
        raise DataError(f"{what}{shown}: {blame(program, given)}")
    return value


def _arguments(program: Program, inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    args = tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)
    takes_keywords, positional = bool(program.example[1]), len(program.example[0])
    if takes_keywords and len(args) == positional + 1 and isinstance(args[-1], Mapping):
        return args[:-1], dict(args[-1])
    return args, {}


def _is_out_of_memory(error: BaseException) -> bool:
    """CPU memory has no exception of its own in torch."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)


def _halved(program: Program, given: Given, error: BaseException) -> int:
    size = given.size // 2
    if not size or not program.dynamic_batch:
        why = "one sample" if not size else f"a batch of {given.size}, which the program was captured to need,"
        raise DataError(f"{why} does not fit into memory: measure fewer skips, or smaller inputs") from error
    warnings.warn(f"a batch of {given.size} samples does not fit into memory: going on with {size}", stacklevel=3)
    return size


def _size(program: Program, args: tuple[Any, ...], kwargs: Mapping[str, Any], count: int) -> int:
    try:
        values = program.flatten(args, kwargs)
    except UsageError as error:
        raise DataError(f"batch {count}: {error}") from None
    pairs = [(w, g) for w, g in zip(program.flatten(*program.example), values, strict=True) if isinstance(w, Tensor)]
    for _, got in pairs:
        if not isinstance(got, Tensor):
            raise DataError(f"batch {count} has a {type(got).__name__} where {program.name} takes a tensor")
    first = 1 if program.dynamic_batch else 0
    for want, got in pairs:
        if got.shape[first:] != want.shape[first:]:
            wanted = tuple("any" if i < first else n for i, n in enumerate(want.shape))
            raise DataError(
                f"batch {count} has an input of shape {tuple(got.shape)} where {program.name} was captured "
                f"with {wanted}: capture it with inputs of this shape"
            )
        if got.is_floating_point() != want.is_floating_point():
            raise DataError(
                f"batch {count} has an input of {got.dtype} where {program.name} was captured with {want.dtype}: "
                f"use .to({want.dtype})"
            )
    return next((len(got) for _, got in pairs if got.ndim), 1)
