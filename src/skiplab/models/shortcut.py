"""Shortcuts other than the identity and projections: `shortcut(x)`."""

import torch.nn.functional as F
from torch import Tensor, nn

from skiplab.errors import UsageError


class PadShortcut(nn.Module):
    """Option A of He et al. 2016 (arXiv:1512.03385, §3.3): no weights, extra channels are zeros.

    (N, C, H, W) gives (N, D, ⌈H/stride⌉, ⌈W/stride⌉): every `stride`-th pixel, and D − C channels of zeros
    after the C channels (as in the authors' code), or half of them on each side with `both_sides`.
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
