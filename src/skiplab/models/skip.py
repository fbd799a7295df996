"""The skip connection: the one place in this package's models where a signal splits and merges."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

Map = Callable[..., Any]  # of the signal, and of what else a network hands on
Combine = Callable[[Any, Any], Any]


def identity(x: Tensor, *_context: Any) -> Tensor:
    """The same values: the shortcut of a residual block, and what follows a pre-activation merge."""
    return x


class SkipConnection(nn.Module):
    """`after(combine(shortcut(x), branch(x)))`; with `shortcut=None` its plain twin, `after(branch(x))`.

    Every architecture in this package is a choice of these four parts. They are handed in (modules or
    functions, `combine(shortcut, branch)` taking two signals), or a subclass defines those that it wants to
    own, as methods or class attributes: so a block keeps its published parameter names, while what a skip
    connection *does* stays written down once, in `forward`.

    What more a step of the network depends on than the signal itself (a recurrent cell's input, the memory
    that a decoder attends to) goes as `context` to branch and shortcut alike.
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
