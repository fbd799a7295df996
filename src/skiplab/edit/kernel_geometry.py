"""Where kernels lie over their input, and the common window into which several fit."""

from dataclasses import dataclass, replace
from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torch.fx import Node

from skiplab.graph.affine import Term
from skiplab.graph.ops import op_info, operator_name


@dataclass(frozen=True)
class Window:
    """Entry j of a kernel meets the input at stride · position + j · dilation − padding; one number a dimension.

    A linear layer has no dimensions, a transposed convolution the parts of input and output exchanged.
    """

    operator: str
    size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    @property
    def backwards(self) -> bool:
        return "transpose" in self.operator

    def single(self) -> "Window":
        """That of the input itself: one entry."""
        ones, zeros = (1,) * len(self.size), (0,) * len(self.size)
        return replace(self, size=ones, stride=ones, padding=zeros, dilation=ones)

    def rest(self) -> tuple[Any, ...]:
        """A layer's arguments behind its bias; a transposed convolution's output is padded no further."""
        stride, padding, dilation = list(self.stride), list(self.padding), list(self.dilation)
        if self.backwards:
            return stride, padding, [0] * len(stride), self.groups, dilation
        return stride, padding, dilation, self.groups

    def place(self, kernel: Tensor, own: "Window") -> Tensor:
        """A kernel of a smaller window in this one, with zeros around it."""
        pads: list[int] = []
        for i in reversed(range(len(self.size))):
            before = (self.padding[i] - own.padding[i]) // self.dilation[i]
            pads += [before, self.size[i] - own.size[i] - before]
        return F.pad(kernel, pads) if any(pads) else kernel


def window_of(term: Term) -> Window:
    """That of a layer."""
    assert term.layer is not None
    name, size = operator_name(term.layer.target), tuple(term.kernel.shape[2:])
    backwards = op_info(term.layer).transposed
    plain: tuple[Any, ...] = (1, 0, 0, 1, 1) if backwards else (1, 0, 1, 1)
    stride, padding, *others = (*term.rest, *plain[len(term.rest) :])
    groups, steps = (others[1], others[2]) if backwards else (others[1], others[0])
    dilation = _each(steps, size)
    if padding == "valid":
        padding = 0
    elif padding == "same":  # with the odd one at the end
        padding = [step * (count - 1) // 2 for step, count in zip(dilation, size, strict=True)]
    dilation = tuple(1 if count == 1 else step for step, count in zip(dilation, size, strict=True))
    return Window(name, size, _each(stride, size), _each(padding, size), dilation, groups)


def around(a: Window, b: Window, node: Node, source: Node) -> Window | None:
    """The smallest window into which both fit, of a layer from `source` to a value like `node`.

    None where they read the input at different places, or where no such layer gives the value's size.
    """
    if (a.operator, a.stride, a.groups) != (b.operator, b.stride, b.groups):
        return None
    size, padding, dilation = [], [], []
    for here, there, p, q, d, e in zip(a.size, b.size, a.padding, b.padding, a.dilation, b.dilation, strict=True):
        steps = {step for step, count in ((d, here), (e, there)) if count > 1} or {1}
        step, before = next(iter(steps)), max(p, q)
        if len(steps) > 1 or (p - q) % step:
            return None
        dilation.append(step)
        padding.append(before)
        size.append(max(here + (before - p) // step, there + (before - q) // step))
    made = replace(a, size=tuple(size), padding=tuple(padding), dilation=tuple(dilation))
    return made if made in (a, b) or _gives(made, node, source) else None


def _gives(window: Window, node: Node, source: Node) -> bool:
    """Whether a layer of this window, with no further padding of its output, makes a value of a node's size."""
    given, made = (each.meta["val"].shape[2:] for each in (source, node))
    if not all(isinstance(count, int) for count in (*given, *made)):
        return False
    for i, (inside, outside) in enumerate(zip(given, made, strict=True)):
        span = window.dilation[i] * (window.size[i] - 1) + 1 - 2 * window.padding[i]
        if window.backwards and (inside - 1) * window.stride[i] + span != outside:
            return False
        if not window.backwards and (inside - span) // window.stride[i] + 1 != outside:
            return False
    return True


def _each(value: Any, size: tuple[int, ...]) -> tuple[int, ...]:
    """A setting for each dimension of a kernel."""
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    return tuple(values * len(size) if len(values) == 1 else values)[: len(size)]
