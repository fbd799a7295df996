"""Position of kernels over their input, and the smallest geometry that holds two of them."""

from dataclasses import dataclass, replace
from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torch.fx import Node

from skiplab.graph.affine import Term
from skiplab.graph.ops import op_info, operator_name


@dataclass(frozen=True)
class KernelGeometry:
    """Size, stride, padding and dilation of a kernel, one number per spatial dimension.

    Entry j of the kernel reads the input at stride · position + j · dilation − padding. A linear layer has no spatial
    dimensions; in a transposed convolution input and output are exchanged.
    """

    operator: str
    size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    @property
    def transposed(self) -> bool:
        return "transpose" in self.operator

    def pointwise(self) -> "KernelGeometry":
        """The geometry of one entry, as of the identity."""
        ones, zeros = (1,) * len(self.size), (0,) * len(self.size)
        return replace(self, size=ones, stride=ones, padding=zeros, dilation=ones)

    def layer_arguments(self) -> tuple[Any, ...]:
        """A layer's arguments after its bias, without further padding of a transposed convolution's output."""
        stride, padding, dilation = list(self.stride), list(self.padding), list(self.dilation)
        if self.transposed:
            return stride, padding, [0] * len(stride), self.groups, dilation
        return stride, padding, dilation, self.groups

    def pad_kernel(self, kernel: Tensor, own: "KernelGeometry") -> Tensor:
        """A kernel of a smaller geometry, zero-padded to this one."""
        pads: list[int] = []
        for i in reversed(range(len(self.size))):
            before = (self.padding[i] - own.padding[i]) // self.dilation[i]
            pads += [before, self.size[i] - own.size[i] - before]
        return F.pad(kernel, pads) if any(pads) else kernel


def geometry_of(term: Term) -> KernelGeometry:
    """The geometry of a layer."""
    assert term.layer is not None
    name, size = operator_name(term.layer.target), tuple(term.kernel.shape[2:])
    transposed = op_info(term.layer).transposed
    plain: tuple[Any, ...] = (1, 0, 0, 1, 1) if transposed else (1, 0, 1, 1)
    stride, padding, *others = (*term.rest, *plain[len(term.rest) :])
    groups, steps = (others[1], others[2]) if transposed else (others[1], others[0])
    dilation = _per_dimension(steps, size)
    if padding == "valid":
        padding = 0
    elif padding == "same":  # an odd total puts the extra one at the end
        padding = [step * (count - 1) // 2 for step, count in zip(dilation, size, strict=True)]
    dilation = tuple(1 if count == 1 else step for step, count in zip(dilation, size, strict=True))
    return KernelGeometry(name, size, _per_dimension(stride, size), _per_dimension(padding, size), dilation, groups)


def enclosing_geometry(a: KernelGeometry, b: KernelGeometry, node: Node, source: Node) -> KernelGeometry | None:
    """The smallest geometry that holds both, for a layer from `source` to a value like `node`.

    None where they read the input at different places, or where no such layer gives a value of that size.
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
    return made if made in (a, b) or _produces_size(made, node, source) else None


def _produces_size(geometry: KernelGeometry, node: Node, source: Node) -> bool:
    """Whether a layer of this geometry, without output padding, gives a value of a node's size."""
    given, made = (each.meta["val"].shape[2:] for each in (source, node))
    if not all(isinstance(count, int) for count in (*given, *made)):
        return False
    for i, (inside, outside) in enumerate(zip(given, made, strict=True)):
        span = geometry.dilation[i] * (geometry.size[i] - 1) + 1 - 2 * geometry.padding[i]
        if geometry.transposed and (inside - 1) * geometry.stride[i] + span != outside:
            return False
        if not geometry.transposed and (inside - span) // geometry.stride[i] + 1 != outside:
            return False
    return True


def _per_dimension(value: Any, size: tuple[int, ...]) -> tuple[int, ...]:
    """A setting for each spatial dimension of a kernel."""
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    return tuple(values * len(size) if len(values) == 1 else values)[: len(size)]
