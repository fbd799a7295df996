"""Residual and plain blocks: skip connections whose layers are attributes of the block."""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skiplab.models.placement import Steps, run
from skiplab.models.skip import Combine, SkipConnection


class PlainBlock(SkipConnection):
    """A sequence of layers: a residual block without its shortcut.

    Args:
        layers: submodules by name. They are children of the block itself, so that published weights load.
        steps: names of the layers, or "activation", in the order in which they run before and after the merge.
        activation: the function that "activation" stands for.
        combine: the merge.
    """

    shortcut = None

    def __init__(
        self,
        layers: Mapping[str, nn.Module],
        steps: Steps,
        activation: Callable[[Tensor], Tensor] = F.relu,
        combine: Combine = torch.add,
    ) -> None:
        super().__init__(combine=combine)
        self.steps, self.activation = steps, activation
        for name, layer in layers.items():
            self.add_module(name, layer)

    def branch(self, x: Tensor) -> Tensor:
        return run(self, self.steps.branch, x)

    def after(self, x: Tensor) -> Tensor:
        return run(self, self.steps.after, x)


class ResidualBlock(PlainBlock):
    """A plain block with a shortcut: its layer `downsample`, or the identity without such a layer."""

    def shortcut(self, x: Tensor) -> Tensor:
        return self.get_submodule("downsample")(x) if hasattr(self, "downsample") else x
