"""Batches as a program takes them: checked against its inputs, and divided by samples."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from skiplab.errors import DataError, UsageError
from skiplab.graph.program import Program
from skiplab.graph.torch_compat import pytree

# (inputs, target). Inputs are a tensor, a tuple of arguments, a mapping of keyword arguments, or a tuple of arguments
# whose last element is such a mapping.
Batch = tuple[Any, Any]


@dataclass(frozen=True, eq=False)
class BoundBatch:
    """One batch, as arguments of the model.

    Attributes:
        args, kwargs: arguments of `forward`.
        target: the target, or None.
        size: number of samples.
        shared: ids of the inputs that all samples share, such as a mask of positions.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    target: Any
    size: int
    shared: frozenset[int] = frozenset()

    @property
    def inputs(self) -> tuple[Any, ...]:
        """The inputs in the form of a `Batch`."""
        return (*self.args, dict(self.kwargs)) if self.kwargs else self.args

    def part(self, start: int, stop: int) -> "BoundBatch":
        """Samples `start` to `stop` (exclusive) of every tensor with one entry per sample."""

        def cut(value: Any) -> Any:
            per_sample = isinstance(value, Tensor) and value.ndim > 0 and len(value) == self.size
            return value[start:stop] if per_sample and id(value) not in self.shared else value

        args, kwargs, target = pytree.tree_map(cut, (self.args, dict(self.kwargs), self.target))
        return replace(self, args=args, kwargs=kwargs, target=target, size=min(stop, self.size) - start)

    def parts(self, size: int) -> list["BoundBatch"]:
        """The same samples in batches of at most `size` samples."""
        if size >= self.size:
            return [self]
        return [self.part(start, start + size) for start in range(0, self.size, size)]


def validate_batches(program: Program, batches: Iterable[Batch]) -> Iterator[BoundBatch]:
    """Yields each batch as arguments of the program.

    Raises:
        DataError: a batch is no pair, its inputs do not match those of the capture, its target has another number of
            samples, or there is no batch.
    """
    count = 0
    for count, batch in enumerate(batches, start=1):
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise DataError(f"batch {count} is not a pair (inputs, target): yield pairs, with None for no target")
        inputs, target = batch
        args, kwargs = pytree.tree_map_only(Tensor, _detached, _arguments(program, inputs))
        size = _size(program, args, kwargs, count)
        if isinstance(target, Tensor) and target.ndim and len(target) != size:
            raise DataError(
                f"batch {count} has {len(target)} targets for {size} samples: the first dimension of the target must "
                "be that of the samples"
            )
        yield BoundBatch(args, kwargs, target, size, _shared_inputs(program, args, kwargs))
    if not count:
        raise DataError("no batches: the iterable is empty or an exhausted iterator")


def require_reiterable(batches: Iterable[Batch], reason: str) -> None:
    """Raises UsageError for an iterator, which can be read only once; `reason` starts the message."""
    if isinstance(batches, Iterator):
        raise UsageError(
            f"{reason}, and `batches` is an iterator, which can be read only once: give a list or a DataLoader"
        )


def _arguments(program: Program, inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    args = tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)
    takes_keywords, positional = bool(program.example[1]), len(program.example[0])
    if takes_keywords and len(args) == positional + 1 and isinstance(args[-1], Mapping):
        return args[:-1], dict(args[-1])
    return args, {}


def _detached(value: Tensor) -> Tensor:
    """The tensor without autograd history, usable in autograd."""
    return value.clone() if value.is_inference() else value.detach()


def _shared_inputs(program: Program, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> frozenset[int]:
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
    expected = program.flatten(*program.example)
    pairs = [(want, got) for want, got in zip(expected, values, strict=True) if isinstance(want, Tensor)]
    for _, got in pairs:
        if not isinstance(got, Tensor):
            raise DataError(
                f"batch {count} has an input of type {type(got).__name__}; {program.name} takes a tensor there"
            )
    first = 1 if program.dynamic_batch else 0
    precisions = {tensor.dtype for tensor in program.tensors.values() if tensor.is_floating_point()}
    for want, got in pairs:
        if got.shape[first:] != want.shape[first:]:
            wanted = tuple("any" if i < first else n for i, n in enumerate(want.shape))
            raise DataError(
                f"batch {count} has an input of shape {tuple(got.shape)}; {program.name} was captured with {wanted}: "
                "capture it with inputs of that shape"
            )
        if got.dtype not in (want.dtype, *precisions) and (got.is_floating_point() or want.is_floating_point()):
            raise DataError(
                f"batch {count} has an input of {got.dtype}; {program.name} was captured with {want.dtype}: use "
                f".to({want.dtype})"
            )
    size = sample_count(program, values)
    if not size:
        raise DataError(f"batch {count} has no samples: leave it out")
    return size


def divisible(program: Program) -> bool:
    """Whether batches can be divided: the batch size is free, and samples are the first dimension of every input."""
    inputs = (program.layouts[program.by_name[name].index] for name in program.inputs if name in program.by_name)
    return program.dynamic_batch and all(layout.samples in (0, None) for layout in inputs)


def sample_count(program: Program, values: list[Any]) -> int:
    """Number of samples in the inputs; if no input has a sample dimension, the length of the first tensor."""
    tensors = [(program.by_name.get(name), x) for name, x in zip(program.inputs, values, strict=True)]
    for op, x in tensors:
        dim = None if op is None else program.layouts[op.index].samples
        if dim is not None:
            return x.shape[dim]
    return next((len(x) for _, x in tensors if isinstance(x, Tensor) and x.ndim), 1)
