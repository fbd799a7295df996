"""The skip connection: the one place in this package's models where a signal splits and merges."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skiplab.errors import UsageError

Map = Callable[[Tensor], Tensor]
Combine = Callable[[Tensor, Tensor], Tensor]


def identity(x: Tensor) -> Tensor:
    """The same values: the shortcut of a residual block, and what follows a pre-activation merge."""
    return x


def concat(shortcut: Tensor, branch: Tensor) -> Tensor:
    """Joins along the channels: (N, C, ...) and (N, D, ...) give (N, C + D, ...), the shortcut's first."""
    return torch.cat((shortcut, branch), dim=1)


class SkipConnection(nn.Module):
    """`after(combine(shortcut(x), branch(x)))`; with `shortcut=None` its plain twin, `after(branch(x))`.

    Every architecture in this package is a choice of these four parts. They are handed in (modules or
    functions, `combine(shortcut, branch)` taking two tensors), or a subclass defines those that it wants to
    own, as methods or class attributes: so a block keeps its published parameter names, while what a skip
    connection *does* stays written down once, in `forward`.
    """

    branch: Map
    shortcut: Callable[..., Tensor] | None  # a Map; `...` lets type checkers accept a method, with its self
    combine: Combine
    after: Map

    def __init__(
        self,
        branch: Map | None = None,
        shortcut: Map | None = identity,
        combine: Combine = torch.add,
        after: Map = identity,
    ) -> None:
        super().__init__()
        parts = {"branch": branch, "shortcut": shortcut, "combine": combine, "after": after}
        for name, part in parts.items():
            if not hasattr(type(self), name):  # a part that the subclass defines stays the subclass's
                setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        if self.shortcut is None:
            return self.after(self.branch(x))
        return self.after(self.combine(self.shortcut(x), self.branch(x)))


class PadShortcut(nn.Module):
    """Option A of He et al. 2016 (arXiv:1512.03385, §3.3): no weights, extra channels are zeros.

    (N, C, H, W) gives (N, D, ⌈H/stride⌉, ⌈W/stride⌉): every `stride`-th pixel, and D − C channels of zeros
    after the C channels (as in the authors' code), or half of them on either side with `both_sides`.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, both_sides: bool = False) -> None:
        super().__init__()
        extra = out_channels - in_channels
        if extra < 0:
            raise UsageError(f"padding cannot turn {in_channels} channels into {out_channels}")
        self.stride = stride
        self.before = extra // 2 if both_sides else 0
        self.behind = extra - self.before

    def forward(self, x: Tensor) -> Tensor:
        thinned = x[..., :: self.stride, :: self.stride]
        return F.pad(thinned, (0, 0, 0, 0, self.before, self.behind))

    def extra_repr(self) -> str:
        return f"stride={self.stride}, zeros=({self.before}, {self.behind})"
