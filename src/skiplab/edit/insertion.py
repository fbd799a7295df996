"""New shortcuts, for a network that has none."""

import math
from collections.abc import Iterable
from typing import Literal

import torch
from torch.fx import Node

from skiplab.edit.graph_editor import GraphEditor
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
    """Adds shortcuts: the value y = F(x) becomes F(x) + x.

    Where the shapes of x and y agree, the shortcut is the identity. Otherwise it is one of the two of He et al. 2016,
    arXiv:1512.03385, §3.3. A takes every s-th position and pads new channels with zeros. B is a 1×1 convolution of
    stride s (a linear layer where channels come last), followed by a batch norm where y comes from one.

    Args:
        program: the network.
        places: places that `places` proposes, or pairs (from, to) of names of ops or modules.
        shortcut: zero padding (A) or projection (B) where shapes differ.
        scale: factor on the shortcut; 0 leaves the function unchanged.
        learn: whether the factor is a learned parameter `shortcut_scale`, which starts at `scale` (default: 1).
        seed: seed of the projections, drawn normal with variance 2 / fan-out (arXiv:1502.01852, §2.2).

    Raises:
        UsageError: for names that are not in the program, and where no shortcut can change one shape into the other.
    """
    if shortcut not in ("A", "B"):
        raise UsageError(f"shortcut={shortcut!r}: choose A or B")
    chosen = [each if isinstance(each, Place) else place(program, *each) for each in places]
    if not chosen:
        raise UsageError("there is no place to insert a shortcut at: give pairs (from, to), or the result of `places`")
    if len(ends := {each.end for each in chosen}) < len(chosen):
        raise UsageError(f"two shortcuts would end at one value, of {', '.join(sorted(ends))}: give each its own end")
    editor = GraphEditor(program)
    generator = torch.Generator().manual_seed(seed)
    sums: dict[str, Node] = {}  # a shortcut that starts where another ends carries the sum
    for each in sorted(chosen, key=lambda each: program.by_name[each.end].index):
        start = sums.get(each.start, editor.nodes[each.start])
        sums[each.end] = _Insertion(editor, each, start, generator).add(shortcut, scale, learn)
    return editor.finish()


class _Insertion:
    """The new nodes of one shortcut, after the value it is added to."""

    def __init__(self, editor: GraphEditor, at: Place, start: Node, generator: torch.Generator) -> None:
        self.editor, self.at, self.start, self.generator = editor, at, start, generator
        self.end = editor.nodes[at.end]
        self.next = self.end.next

    def add(self, shortcut: Shortcut, scale: float | None, learn: bool) -> Node:
        """Adds the shortcut to the value at its end and redirects all readers of that value to the sum."""
        readers = list(self.end.users)
        carried = self._match_shape(shortcut)
        if learn:
            start = torch.tensor(1.0 if scale is None else scale)
            factor = self.editor.parameter(self.at.path, "shortcut_scale", start, like=self.end)
            carried = self._call(aten.mul.Tensor, carried, factor)
        elif scale is not None:
            carried = self._call(aten.mul.Tensor, carried, scale)
        total = self._call(aten.add.Tensor, carried, self.end)
        for reader in readers:
            reader.replace_input_with(self.end, total)
        return total

    def _call(self, target: object, *args: object) -> Node:
        node = self.editor.call(self.next, target, *args)
        node.meta["stack_trace"] = self.end.meta.get("stack_trace")
        node.meta["nn_module_stack"] = _enclosing_modules(self.end.meta.get("nn_module_stack") or {}, self.at.path)
        return node

    def _match_shape(self, shortcut: Shortcut) -> Node:
        """The value at the start, in the shape of the value at the end."""
        here, there = (node.meta["val"].shape for node in (self.start, self.end))
        if sizes(self.start) == sizes(self.end):
            return self.start
        program = self.editor.program
        layouts = [program.layouts[program.by_name[name].index] for name in (self.at.start, self.at.end)]
        dims = [layout.channels for layout in layouts if layout.channels is not None]
        if len(dims) < 2:
            raise self._mismatch("one of them has no dimension of channels: end it elsewhere")
        strides = _strides(here, there, dims[1]) if len(here) == len(there) and dims[0] == dims[1] else None
        widths = here[dims[0]], there[dims[1]]
        if strides is None or not all(isinstance(width, int) for width in widths):
            raise self._mismatch("no stride changes one shape into the other: end it earlier")
        if shortcut == "B":
            if not can_project(len(there), dims[1]):
                raise self._mismatch(f"a projection needs channels in dimension 1 or last, not in {dims[1]}")
            return self._project(widths, strides, dims[1])
        if widths[0] > widths[1]:
            raise self._mismatch("zero padding cannot reduce the number of channels: use shortcut B, a projection")
        return self._pad(widths[1] - widths[0], strides, dims[1], len(there))

    def _pad(self, extra: int, strides: list[int], dim: int, rank: int) -> Node:
        value = self.start
        for dimension, stride in enumerate(strides):
            if stride > 1:
                value = self._call(aten.slice.Tensor, value, dimension, 0, _TO_THE_END, stride)
        padding = [0] * (2 * (rank - 1 - dim)) + [0, extra]  # counted from the last dimension on
        return self._call(aten.pad.default, value, padding) if extra else value

    def _project(self, widths: tuple[int, int], strides: list[int], dim: int) -> Node:
        rank, path = len(strides), self.at.path
        matrix = torch.empty(widths[1], widths[0]).normal_(0, math.sqrt(2 / widths[1]), generator=self.generator)
        weight = self.editor.parameter(path, "shortcut_weight", as_kernel(matrix, rank, dim), like=self.end)
        if is_image(rank, dim):
            value = self._call(projection(rank, dim), self.start, weight, None, strides[2:])
        else:
            value = self._call(projection(rank, dim), self._pad(0, strides, dim, rank), weight)
        if operator_name(self.end.target) != "batch_norm":
            return value
        tensors = batch_norm(self.editor, path, "shortcut_norm", widths[1], like=self.end)
        return self._call(aten.batch_norm.default, value, *tensors, *self.end.args[5:])

    def _mismatch(self, why: str) -> UsageError:
        shapes = [self.editor.program.by_name[name].shape for name in (self.at.start, self.at.end)]
        return UsageError(
            f"no shortcut fits from `{self.at.start}` {shapes[0]} to `{self.at.end}` {shapes[1]} in "
            f"`{self.at.path or self.editor.program.name}`: {why}"
        )


def _strides(here: torch.Size, there: torch.Size, channels: int) -> list[int] | None:
    """The stride in each dimension, 1 for channels; None where no strides change one shape into the other."""
    strides = []
    for dim, (old, new) in enumerate(zip(here, there, strict=True)):
        if dim == channels or str(old) == str(new):
            strides.append(1)
        elif isinstance(old, int) and isinstance(new, int) and new and -(-old // max(1, round(old / new))) == new:
            strides.append(round(old / new))
        else:
            return None
    return strides


def _enclosing_modules(stack: dict, path: str) -> dict:
    """The entries of an op's module stack from the root down to the module of that path."""
    parts = path.split(".") if path else []
    there = {key: entry[0].removeprefix("L['self']").lstrip(".") for key, entry in stack.items()}
    return {
        key: stack[key] for key, name in there.items() if not name or name.split(".") == parts[: name.count(".") + 1]
    }
