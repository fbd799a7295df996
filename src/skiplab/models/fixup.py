"""Fixup: residual networks without normalization. Zhang, Dauphin and Ma 2019, arXiv:1901.09321, §3.2.

1. The classifier and the last layer of each branch start at zero.
2. Other weight layers start as usual, those in branches times L^(−1/(2m−2)): L branches of m weight layers each.
3. Every branch has a learned scalar multiplier, which starts at 1. A learned scalar, which starts at 0, is added
   before each weight layer and activation.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from skiplab.models.placement import Steps


class Bias(nn.Module):
    """x + β with one learned number β, which starts at 0."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias


class Multiplier(nn.Module):
    """x · α with one learned number α, which starts at 1."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


def biased(steps: Iterable[str], first: int = 1) -> list[str]:
    """The steps with a bias before each: `bias1` for the first, and so on."""
    return [name for i, step in enumerate(steps, first) for name in (f"bias{i}", step)]


def with_scalars(steps: Steps) -> Steps:
    """A branch's steps with those of rule 3. The bias of an activation after the merge comes before it (Fig. 1)."""
    last = [f"bias{len(steps.branch) + 1}"] if steps.after else []
    return Steps((*biased(steps.branch), "multiplier", *last), steps.after)


def scalars(steps: Iterable[str]) -> dict[str, nn.Module]:
    """The modules that rule 3 adds to these steps, by name."""
    kinds = {"bias": Bias, "multiplier": Multiplier}
    return {name: kinds[kind]() for name in steps if (kind := name.rstrip("0123456789")) in kinds}


@torch.no_grad()
def shrink(branches: Sequence[Sequence[Tensor]], classifier: nn.Linear) -> None:
    """Applies rules 1 and 2 to initialized weights: those of each branch, in order, and the classifier."""
    for weights in branches:
        for weight in weights[:-1]:
            weight *= len(branches) ** (-1 / (2 * len(weights) - 2))
        weights[-1].zero_()
    classifier.weight.zero_()
    classifier.bias.zero_()
