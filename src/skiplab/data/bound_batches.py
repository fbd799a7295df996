"""Batches as a program takes them: checked against its inputs, and cut by samples."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from skiplab.errors import DataError, UsageError
from skiplab.graph.program import Program
from skiplab.graph.torch_compat import pytree

# (inputs, target); inputs: a tensor, a tuple of arguments, a mapping of keyword arguments, or a tuple of arguments
# that such a mapping ends.
Batch = tuple[Any, Any]


@dataclass(frozen=True, eq=False)
class BoundBatch:
    """One batch, as the model takes it.

    Attributes:
        size: its number of samples: along the first dimension, unless the network takes sequences first.
        whole: ids of the inputs that all samples share, such as a mask of positions.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    target: Any
    size: int
    whole: frozenset[int] = frozenset()

    @property
    def inputs(self) -> tuple[Any, ...]:
        """As a batch has them."""
        return (*self.args, dict(self.kwargs)) if self.kwargs else self.args

    def part(self, start: int, stop: int) -> "BoundBatch":
        """Samples `start` up to `stop` alone: of every tensor that has one entry a sample."""

        def cut(value: Any) -> Any:
            own = isinstance(value, Tensor) and value.ndim > 0 and len(value) == self.size
            return value[start:stop] if own and id(value) not in self.whole else value

        args, kwargs, target = pytree.tree_map(cut, (self.args, dict(self.kwargs), self.target))
        return replace(self, args=args, kwargs=kwargs, target=target, size=min(stop, self.size) - start)

    def parts(self, size: int) -> list["BoundBatch"]:
        """The same samples in batches of at most `size`."""
        if size >= self.size:
            return [self]
        return [self.part(start, start + size) for start in range(0, self.size, size)]


def validate_batches(program: Program, batches: Iterable[Batch]) -> Iterator[BoundBatch]:
    """Each batch as the program takes it; DataError for what it cannot take."""
    count = 0
    for count, batch in enumerate(batches, start=1):
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise DataError(f"batch {count} is no pair (inputs, target): wrap it, with None for no target")
        inputs, target = batch
        args, kwargs = pytree.tree_map_only(Tensor, _plain, _arguments(program, inputs))
        size = _size(program, args, kwargs, count)
        if isinstance(target, Tensor) and target.ndim and len(target) != size:
            raise DataError(
                f"batch {count} has {len(target)} targets for {size} samples along the first dimension of its input: "
                "samples have to lie along the first dimension of both"
            )
        yield BoundBatch(args, kwargs, target, size, _shared(program, args, kwargs))
    if not count:
        raise DataError("there is no batch to measure on: the iterable of batches is empty or used up")


def require_again(batches: Iterable[Batch], why: str) -> None:
    """UsageError for an iterator, which is used up after one reading."""
    if isinstance(batches, Iterator):
        raise UsageError(
            f"{why}, and `batches` can be read once: give a list, or an object that starts anew in `__iter__`, as a "
            "DataLoader does"
        )


def _arguments(program: Program, inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    args = tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)
    takes_keywords, positional = bool(program.example[1]), len(program.example[0])
    if takes_keywords and len(args) == positional + 1 and isinstance(args[-1], Mapping):
        return args[:-1], dict(args[-1])
    return args, {}


def _plain(value: Tensor) -> Tensor:
    """Without a history of gradients, and fit to get one."""
    return value.clone() if value.is_inference() else value.detach()


def _shared(program: Program, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> frozenset[int]:
    if not divisible(program):
        return frozenset()
    named = zip(program.inputs, program.flatten(args, kwargs), strict=True)
    ops = ((value, program.by_name.get(name)) for name, value in named)
    return frozenset(id(value) for value, op in ops if op and op.shape and program.layouts[op.index].samples is None)


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
    precisions = {tensor.dtype for tensor in program.tensors.values() if tensor.is_floating_point()}
    for want, got in pairs:
        if got.shape[first:] != want.shape[first:]:
            wanted = tuple("any" if i < first else n for i, n in enumerate(want.shape))
            raise DataError(
                f"batch {count} has an input of shape {tuple(got.shape)} where {program.name} was captured "
                f"with {wanted}: capture it with inputs of this shape"
            )
        if got.dtype not in (want.dtype, *precisions) and (got.is_floating_point() or want.is_floating_point()):
            raise DataError(
                f"batch {count} has an input of {got.dtype} where {program.name} was captured with {want.dtype}: "
                f"use .to({want.dtype})"
            )
    size = sample_count(program, values)
    if not size:
        raise DataError(f"batch {count} has no samples: leave it out")
    return size


def divisible(program: Program) -> bool:
    """Whether a batch may be run in parts: its size is free, and its inputs have the samples first."""
    inputs = (program.layouts[program.by_name[name].index] for name in program.inputs if name in program.by_name)
    return program.dynamic_batch and all(layout.samples in (0, None) for layout in inputs)


def sample_count(program: Program, values: list[Any]) -> int:
    """How many samples the inputs hold; where none has a dimension of samples, the length of the first."""
    tensors = [(program.by_name.get(name), x) for name, x in zip(program.inputs, values, strict=True)]
    for op, x in tensors:
        dim = None if op is None else program.layouts[op.index].samples
        if dim is not None:
            return x.shape[dim]
    return next((len(x) for _, x in tensors if isinstance(x, Tensor) and x.ndim), 1)
