"""The skip connection: the only place in this package's models where a signal forks and merges."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

Map = Callable[..., Any]  # of the signal, and of what else a network hands on
Combine = Callable[[Any, Any], Any]


def identity(x: Tensor, *_context: Any) -> Tensor:
    """Returns its input: the shortcut of a residual block, and the `after` of a pre-activation block."""
    return x


class SkipConnection(nn.Module):
    """`after(combine(shortcut(x), branch(x)))`; with `shortcut=None` the plain block, `after(branch(x))`.

    Every architecture in this package is a choice of these four parts. They are passed as modules or functions, or a
    subclass defines them as methods or class attributes, so that a block keeps its published parameter names. What a
    skip connection computes is written once, in `forward`.

    Further inputs of a step (the input of a recurrent cell, the memory that a decoder attends to) are `context`, which
    branch and shortcut both get.
    """

    branch: Map
    shortcut: Map | None
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

    def forward(self, x: Any, *context: Any) -> Any:
        if self.shortcut is None:
            return self.after(self.branch(x, *context))
        return self.after(self.combine(self.shortcut(x, *context), self.branch(x, *context)))
