"""Merges other than plain addition: `combine(shortcut, branch)`."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skiplab.validation import require_share


def concat(shortcut: Tensor, branch: Tensor) -> Tensor:
    """Concatenates along the channels: (N, C, ...) and (N, D, ...) give (N, C + D, ...), the shortcut first."""
    return torch.cat((shortcut, branch), dim=1)


class Gated(nn.Module):
    """(1 − g) · shortcut + g · branch, where g = σ(gate(shortcut)) lies between 0 and 1.

    Highway networks: Srivastava et al. 2015, arXiv:1505.00387, eq. 3, where the shortcut is the input itself;
    "exclusive gating" in He et al. 2016, arXiv:1603.05027, §3.1. The output of `gate`
    broadcasts with shortcut and branch; a negative bias favors the shortcut.
    """

    def __init__(self, gate: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.gate = gate

    def forward(self, shortcut: Tensor, branch: Tensor) -> Tensor:
        g = torch.sigmoid(self.gate(shortcut))
        return (1 - g) * shortcut + g * branch


class ShortcutGated(nn.Module):
    """(1 − g) · shortcut + branch, where g = σ(gate(shortcut)).

    "Shortcut-only gating" in He et al. 2016, arXiv:1603.05027, §3.1, Fig. 2d. A negative bias in `gate` opens
    the shortcut.
    """

    def __init__(self, gate: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.gate = gate

    def forward(self, shortcut: Tensor, branch: Tensor) -> Tensor:
        return (1 - torch.sigmoid(self.gate(shortcut))) * shortcut + branch


class Weighted(nn.Module):
    """a · shortcut + b · branch with constants.

    "Constant scaling" in He et al. 2016, arXiv:1603.05027, §3.1, Fig. 2b: a = 0.5, with b = 1 or b = 0.5.
    """

    def __init__(self, shortcut: float, branch: float) -> None:
        super().__init__()
        self.factors = (shortcut, branch)

    def forward(self, shortcut: Tensor, branch: Tensor) -> Tensor:
        a, b = self.factors
        return a * shortcut + (branch if b == 1 else b * branch)

    def extra_repr(self) -> str:
        return f"factors={self.factors}"


class ShortcutDropout(nn.Module):
    """dropout(shortcut) + branch: He et al. 2016, arXiv:1603.05027, §3.1, Fig. 2f, with rate 0.5."""

    def __init__(self, ratio: float = 0.5) -> None:
        super().__init__()
        self.ratio = ratio

    def forward(self, shortcut: Tensor, branch: Tensor) -> Tensor:
        return F.dropout(shortcut, self.ratio, self.training) + branch

    def extra_repr(self) -> str:
        return f"ratio={self.ratio}"


class Scaled(nn.Module):
    """shortcut + α · branch with a learned α that starts at `start`: one number, or one per channel.

    With 0, a block is the identity before training: ReZero (Bachlechner et al. 2020, arXiv:2003.04887, eq. 1)
    and SkipInit (De and Smith 2020, arXiv:2002.10444, §4). With `shape=(C,)` and channels last it is LayerScale
    (Touvron et al. 2021, arXiv:2103.17239, §2).
    """

    def __init__(self, start: float = 0.0, shape: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.full(shape, float(start)))

    def forward(self, shortcut: Tensor, branch: Tensor) -> Tensor:
        return shortcut + self.alpha * branch


class DropPath(nn.Module):
    """shortcut + branch, where in training mode a whole sample's branch is dropped with probability `rate`.

    Other branches are divided by 1 − rate, so that the expectation is the output of evaluation mode, in which nothing
    is dropped. Stochastic depth: Huang et al. 2016, arXiv:1603.09382, §3, who scale in evaluation instead.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        require_share("rate", rate)
        self.rate = rate

    def forward(self, shortcut: Tensor, branch: Tensor) -> Tensor:
        return shortcut + self.dropped(branch)

    def dropped(self, branch: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return branch
        kept = torch.rand(branch.shape[0], *[1] * (branch.ndim - 1), device=branch.device) >= self.rate
        return branch * kept / (1 - self.rate)

    def extra_repr(self) -> str:
        return f"rate={self.rate}"
