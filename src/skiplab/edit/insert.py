"""Shortcuts for a network that has none."""

import math
from collections.abc import Iterable
from typing import Literal

import torch
from torch.fx import Node

from skiplab.edit.graph_editor import Draft
from skiplab.edit.insertion_points import Place, place
from skiplab.edit.new_layers import as_kernel, batch_norm, can_project, is_image, projection
from skiplab.errors import UsageError
from skiplab.graph.functionalize import sizes
from skiplab.graph.ops import operator_name
from skiplab.graph.program import Program

Shortcut = Literal["A", "B"]
aten = torch.ops.aten
_TO_THE_END = 2**63 - 1


def insert(
    program: Program,
    places: Iterable[Place | tuple[str, str]],
    shortcut: Shortcut = "A",
    scale: float | None = None,
    learn: bool = False,
    seed: int = 0,
) -> Program:
    """Adds to a value what a shortcut brings there from an earlier one: y = F(x) becomes F(x) + x.

    Where the shapes agree, the shortcut is the identity. Elsewhere it is one of the two of He et al. 2016,
    arXiv:1512.03385, §3.3: "A", every s-th position, and zeros for the channels that are new; "B", a convolution
    1×1 of stride s (a matrix, where channels come last), with a batch norm of its own where the value that it is
    added to comes from one.

    Args:
        program: the network.
        places: as `places` proposes them; or pairs of names of ops or modules, which stand for what they give.
        shortcut: what to do where shapes differ.
        scale: a factor on what comes over the shortcut. With 0 the function stays what it was.
        learn: whether that factor is a parameter, `shortcut_scale`, which starts there (at 1, where none is given).
        seed: of the projections, drawn normal with variance 2 / fan-out (arXiv:1502.01852, §2.2).

    Raises:
        UsageError: for names that are not there, and where no shortcut can turn one shape into the other.
    """
    if shortcut not in ("A", "B"):
        raise UsageError(f"shortcut={shortcut!r}: choose A or B")
    chosen = [each if isinstance(each, Place) else place(program, *each) for each in places]
    if not chosen:
        raise UsageError("there is no place to insert a shortcut at: give pairs (from, to), or those of `places`")
    if len(ends := {each.end for each in chosen}) < len(chosen):
        raise UsageError(f"two shortcuts would end at one value, of {', '.join(sorted(ends))}: give each its own end")
    draft = Draft(program)
    generator = torch.Generator().manual_seed(seed)
    sums: dict[str, Node] = {}  # a shortcut that starts where another ends carries the sum on
    for each in sorted(chosen, key=lambda each: program.by_name[each.end].index):
        start = sums.get(each.start, draft.nodes[each.start])
        sums[each.end] = _Insertion(draft, each, start, generator).add(shortcut, scale, learn)
    return draft.done()


class _Insertion:
    """One shortcut, and the nodes that make it, behind the value that it is added to."""

    def __init__(self, draft: Draft, at: Place, start: Node, generator: torch.Generator) -> None:
        self.draft, self.at, self.start, self.generator = draft, at, start, generator
        self.end = draft.nodes[at.end]
        self.behind = self.end.next

    def add(self, shortcut: Shortcut, scale: float | None, learn: bool) -> Node:
        """The sum, which everything reads that has read the end's value."""
        readers = list(self.end.users)
        carried = self._fitted(shortcut)
        if learn:
            start = torch.tensor(1.0 if scale is None else scale)
            factor = self.draft.parameter(self.at.path, "shortcut_scale", start, like=self.end)
            carried = self._call(aten.mul.Tensor, carried, factor)
        elif scale is not None:
            carried = self._call(aten.mul.Tensor, carried, scale)
        total = self._call(aten.add.Tensor, carried, self.end)
        for reader in readers:
            reader.replace_input_with(self.end, total)
        return total

    def _call(self, target: object, *args: object) -> Node:
        node = self.draft.call(self.behind, target, *args)
        node.meta["stack_trace"] = self.end.meta.get("stack_trace")
        node.meta["nn_module_stack"] = _outside(self.end.meta.get("nn_module_stack") or {}, self.at.path)
        return node

    def _fitted(self, shortcut: Shortcut) -> Node:
        """The start's value in the end's shape."""
        here, there = (node.meta["val"].shape for node in (self.start, self.end))
        if sizes(self.start) == sizes(self.end):
            return self.start
        program = self.draft.program
        layouts = [program.layouts[program.by_name[name].index] for name in (self.at.start, self.at.end)]
        dims = [layout.channels for layout in layouts if layout.channels is not None]
        if len(dims) < 2:
            raise self._misfit("one of them has no dimension of channels: end it elsewhere")
        strides = _strides(here, there, dims[1]) if len(here) == len(there) and dims[0] == dims[1] else None
        widths = here[dims[0]], there[dims[1]]
        if strides is None or not all(isinstance(width, int) for width in widths):
            raise self._misfit("no stride turns one into the other: end it before what changes the shape so")
        if shortcut == "B":
            if not can_project(len(there), dims[1]):
                raise self._misfit(f"a projection needs channels in dimension 1 or last, not in {dims[1]}")
            return self._projected(widths, strides, dims[1])
        if widths[0] > widths[1]:
            raise self._misfit("zeros cannot make channels fewer: use shortcut B, a projection")
        return self._padded(widths[1] - widths[0], strides, dims[1], len(there))

    def _padded(self, extra: int, strides: list[int], dim: int, rank: int) -> Node:
        value = self.start
        for dimension, stride in enumerate(strides):
            if stride > 1:
                value = self._call(aten.slice.Tensor, value, dimension, 0, _TO_THE_END, stride)
        padding = [0] * (2 * (rank - 1 - dim)) + [0, extra]  # counted from the last dimension on
        return self._call(aten.pad.default, value, padding) if extra else value

    def _projected(self, widths: tuple[int, int], strides: list[int], dim: int) -> Node:
        rank, path = len(strides), self.at.path
        matrix = torch.empty(widths[1], widths[0]).normal_(0, math.sqrt(2 / widths[1]), generator=self.generator)
        weight = self.draft.parameter(path, "shortcut_weight", as_kernel(matrix, rank, dim), like=self.end)
        if is_image(rank, dim):
            value = self._call(projection(rank, dim), self.start, weight, None, strides[2:])
        else:
            value = self._call(projection(rank, dim), self._padded(0, strides, dim, rank), weight)
        if operator_name(self.end.target) != "batch_norm":
            return value
        tensors = batch_norm(self.draft, path, "shortcut_norm", widths[1], like=self.end)
        return self._call(aten.batch_norm.default, value, *tensors, *self.end.args[5:])

    def _misfit(self, why: str) -> UsageError:
        shapes = [self.draft.program.by_name[name].shape for name in (self.at.start, self.at.end)]
        return UsageError(
            f"no shortcut fits from `{self.at.start}` {shapes[0]} to `{self.at.end}` {shapes[1]} in "
            f"`{self.at.path or self.draft.program.name}`: {why}"
        )


def _strides(here: torch.Size, there: torch.Size, channels: int) -> list[int] | None:
    """For each dimension every how many positions are taken; None where none does it. That of channels is 1."""
    strides = []
    for dim, (old, new) in enumerate(zip(here, there, strict=True)):
        if dim == channels or str(old) == str(new):
            strides.append(1)
        elif isinstance(old, int) and isinstance(new, int) and new and -(-old // max(1, round(old / new))) == new:
            strides.append(round(old / new))
        else:
            return None
    return strides


def _outside(stack: dict, path: str) -> dict:
    """Of the modules in which an op stands, those down to the one of that path."""
    parts = path.split(".") if path else []
    there = {key: entry[0].removeprefix("L['self']").lstrip(".") for key, entry in stack.items()}
    return {
        key: stack[key] for key, name in there.items() if not name or name.split(".") == parts[: name.count(".") + 1]
    }
