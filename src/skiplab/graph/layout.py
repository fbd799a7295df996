"""The one table of which dimension of a value holds samples, channels and positions.

Conventions, by operator (N samples, C channels, the rest positions):

- convolution, pooling, upsampling, batch, group and instance norm: (N, C, *positions);
- linear, layer and RMS norm, a matrix product with a weight: (*anything, C); an embedding appends C;
- attention: (N, …, positions, C);
- LSTM, GRU and RNN: (N, positions, C) with `batch_first`, else (positions, N, C).

Views, permutations, slices, concatenations and elementwise operators propagate these roles, forward and backward: an
input has its channels where the first layer that reads it expects them. A known role takes precedence over a
convention: a linear layer that reads (N, C, T) mixes positions, and its result is (N, C, T′).

The dimension of samples is the one with the free batch size, unless attention or a recurrent layer uses that dimension
as positions and another one as its batch (the time of a sequence-first network). With a fixed batch size it is the
batch of the operators, or else the first dimension of the inputs.

Without any evidence, images (N, C, H, W) have channels in the second dimension, token ids (N, T) have none, and all
other values have them in the last one.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import sympy
from torch import Tensor
from torch.fx import Graph, Node

from skiplab.errors import UsageError
from skiplab.graph.axes import Axes, Axis, Dim, holds, leaves, size
from skiplab.graph.axis_rules import Call, dimensions
from skiplab.graph.ops import Op

_SYMBOLIC = 10**6  # a prime above this stands for a size that varies, so that it divides no other size


@dataclass(frozen=True, slots=True)
class Layout:
    """What the dimensions of a value hold.

    Attributes:
        samples: the dimension of the samples of a batch; None for a value that they share, or in which they are no
            longer whole.
        channels: the dimension of the channels or features; the last one if they are split into groups (heads). None
            if the value has none, or if they share a dimension with the samples.
        positions: all other dimensions: pixels, steps of a sequence, patches.
        folded: number of entries per sample in the dimension of the samples, outside and inside of the samples:
            (1, 1) if it holds only samples; (1, 4) for four windows per image, one image after the other; (T, 1) for
            T steps of a sequence, each with all samples. None for a number that varies.
        places: number of positions of one sample, including folded ones; 1 if there are only channels. Positions
            along two dimensions (attention scores) count once.
    """

    samples: int | None = None
    channels: int | None = None
    positions: tuple[int, ...] = ()
    folded: tuple[int | None, int | None] = (1, 1)
    places: int = 1

    def require_channels(self, what: str) -> int:
        """The dimension of the channels; UsageError that names `what` if there is none."""
        if self.channels is None:
            raise UsageError(f"{what} has no dimension of channels: leave its skip out")
        return self.channels

    def by_sample(self, value: Tensor, count: int) -> Tensor:
        """A value of this layout as (samples, entries); as (1, entries) where it has no dimension of `count` samples.

        Entries are in order of the value's other dimensions, those folded into the samples' dimension first.
        """
        if self.samples is None:
            return value.reshape(1, -1)
        outer, inner = self._folds(value, count)
        if outer * count * inner != value.shape[self.samples]:
            return value.reshape(1, -1)
        return value.movedim(self.samples, 0).reshape(outer, count, -1).transpose(0, 1).reshape(count, -1)

    def spread(self, factors: Tensor, value: Tensor) -> Tensor:
        """One factor a sample, shape (samples,), in a shape that multiplies a value of this layout."""
        if self.samples is None:
            return factors.reshape([1] * value.ndim)
        outer, inner = self._folds(value, len(factors))
        shape = [1] * value.ndim
        shape[self.samples] = value.shape[self.samples]
        return factors.repeat_interleave(inner).repeat(outer).reshape(shape)

    def _folds(self, value: Tensor, count: int) -> tuple[int, int]:
        """Number of entries outside and inside of the samples in their dimension."""
        assert self.samples is not None
        (outer, inner), whole = self.folded, value.shape[self.samples]
        if outer is None:
            outer = whole // (count * (inner or 1))
        return outer, inner if inner is not None else whole // (count * max(outer, 1))


def layouts(graph: Graph, ops: Sequence[Op]) -> tuple[Layout, ...]:
    """The layout of each op's value; an empty one for several tensors."""
    table = _Table(graph, ops)
    return tuple(table.layout(op) for op in ops)


class _Table:
    """The axes of all values, found in one pass through the graph, and how many samples there are."""

    def __init__(self, graph: Graph, ops: Sequence[Op]) -> None:
        names = {op.name for op in ops}
        self.axes = Axes()
        self.ids: set[str] = set()  # values that are not real numbers
        self._symbols: dict[sympy.Symbol, int] = {}
        self._numbers: dict[sympy.Expr, int] = {}
        nodes = [node for node in graph.nodes if node.name in names]
        for node in nodes:
            self._visit(node)
        known = (self.axes.of(node) for node in nodes if node.op == "placeholder")
        inputs = [dims for dims in known if dims]
        self.counts = self._samples(inputs)
        self.batches = {_sample_axes(dim) for dims in inputs for dim in dims}

    def _visit(self, node: Node) -> None:
        value = node.meta.get("val")
        named = [(node.name, value)]
        if isinstance(value, (list, tuple)):
            named = [(f"{node.name}:{index}", each) for index, each in enumerate(value)]
        for index, (name, each) in enumerate(named):
            if isinstance(each, Tensor):
                sizes = [self._number(n) for n in each.shape]
                is_input = node.op == "placeholder"
                dims = self._input(sizes) if is_input else dimensions(Call(self.axes, node, sizes, index))
                self.axes.values[name] = dims
                if not (each.is_floating_point() or each.is_complex()):
                    self.ids.add(name)

    def _number(self, each: Any) -> int:
        """A size; for one that varies, a number that divides no other size."""
        if isinstance(each, int):
            return each
        expression = each.node.expr
        if expression not in self._numbers:
            for symbol in expression.free_symbols:
                self._symbols.setdefault(symbol, sympy.nextprime(_SYMBOLIC, len(self._symbols) + 1))
            self._numbers[expression] = int(expression.subs(self._symbols))
        return self._numbers[expression]

    def _input(self, sizes: list[int]) -> list[Dim]:
        if sizes and sizes[0] > _SYMBOLIC and all(axis.size != sizes[0] for axis in self.axes.varying):
            self.axes.varying.append(Axis(sizes[0]))
            self.axes.varying[-1].learn("samples", assumed=True)
        return [self.axes.fresh(each) for each in sizes]

    def _samples(self, inputs: list[list[Dim]]) -> set[int]:
        """Numbers of samples, which may differ between inputs if the batch sizes are free.

        Chosen here if neither an operator nor a free batch size determines them.
        """
        known = {count for dims in inputs if (count := _sample_count(dims)) is not None}
        counts = known or {size(dims[0]) for dims in inputs[:1]}
        for dims in inputs if not self.axes.varying else ():
            if _sample_count(dims) is None and size(dims[0]) in counts:
                for axis in leaves(dims[0]):
                    axis.learn("samples")
        return counts

    def layout(self, op: Op) -> Layout:
        dims = self.axes.values.get(op.name)
        if dims is None:
            return Layout()
        samples = next((i for i, dim in enumerate(dims) if self._is_whole(dim)), None)
        others = [i for i, dim in enumerate(dims) if not holds(dim, "samples")]
        channels = self._channels(op, dims, others)
        positions = tuple(i for i in others if i != channels and not _is_all_channels(dims[i]))
        inside = [axis for i in positions for axis in leaves(dims[i])]
        folded: tuple[int | None, int | None] = (1, 1)
        if samples is not None:
            among = leaves(dims[samples])
            first = next(i for i, axis in enumerate(among) if axis.role == "samples")
            folded = _count(among[:first]), _count(axis for axis in among[first:] if axis.role != "samples")
            inside += [axis for axis in among if axis.role in (None, "positions")]
        places = math.prod(axis.size for axis in dict.fromkeys(inside) if axis.size < _SYMBOLIC)
        return Layout(samples, channels, positions, folded, places)

    def _is_whole(self, dim: Dim) -> bool:
        """Whether a dimension holds all samples in order: a batch that was split may come together in another one."""
        of = [i for i, axis in enumerate(leaves(dim)) if axis.role == "samples"]
        together = bool(of) and of[-1] - of[0] == len(of) - 1
        in_order = len(of) == 1 or _sample_axes(dim) in self.batches
        return together and in_order and _sample_count([dim]) in self.counts

    def _channels(self, op: Op, dims: list[Dim], others: list[int]) -> int | None:
        """The last dimension of channels only; else the last with some channels; else by the number of dimensions."""
        held = [i for i in others if holds(dims[i], "channels")]
        whole = [i for i in held if _is_all_channels(dims[i])]
        unknown = [i for i in others if any(axis.role is None for axis in leaves(dims[i]))]
        if held or not unknown or op.name in self.ids:
            return (whole or held or [None])[-1]
        return 1 if len(dims) > 3 and 1 in unknown else unknown[-1]


def _sample_axes(dim: Dim) -> Dim:
    return tuple(axis for axis in leaves(dim) if axis.role == "samples")


def _sample_count(dims: Iterable[Dim]) -> int | None:
    """Number of samples in the first dimension that holds any."""
    return next((size(axes) for dim in dims if (axes := _sample_axes(dim))), None)


def _is_all_channels(dim: Dim) -> bool:
    return all(axis.role == "channels" for axis in leaves(dim) if axis.size > 1) and holds(dim, "channels")


def _count(axes: Iterable[Axis]) -> int | None:
    """Number of entries of several axes; None if it varies."""
    number = math.prod(axis.size for axis in axes)
    return None if number > _SYMBOLIC else number
