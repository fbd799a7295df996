"""Where normalisation and activation stand around an addition: He et al. 2016, arXiv:1603.05027, Table 2 and Fig. 4.

A placement is the order of one weight layer with what belongs to it, and how much of the branch's end comes
after the merge instead. Branch, network's beginning and network's end all follow from these two.
"""

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

from torch import Tensor, nn

Placement = Literal["post", "bn-after", "relu-before", "relu-only", "pre"]
Last = Literal["activation", "norm", "none"]
PLACEMENTS = {
    "post": ("weight norm activation", 1),  # Fig. 4a, the original: the activation after the merge
    "bn-after": ("weight norm activation", 2),  # Fig. 4b: the norm too
    "relu-before": ("weight norm activation", 0),  # Fig. 4c: branches give nothing negative
    "relu-only": ("activation weight norm", 0),  # Fig. 4d
    "pre": ("norm activation weight", 0),  # Fig. 4e, full pre-activation
}


class Steps(NamedTuple):
    """What is done in a branch and after its merge, in order: attributes of the block, by name."""

    branch: tuple[str, ...]
    after: tuple[str, ...]


def order(placement: str, depth: int, weight: str, norm: str | None) -> Steps:
    """The steps of a branch of `depth` weight layers, which are called `weight1`, `norm1`, and so on.

    Without a `norm` there is none, and "bn-after" is the same as "post", "relu-only" the same as "pre".
    """
    unit, behind = PLACEMENTS[placement]
    names = {"weight": weight, "norm": norm or ""}
    steps = [
        (kind, "activation" if kind == "activation" else f"{names[kind]}{i}")
        for i in range(1, depth + 1)
        for kind in unit.split()
    ]
    merge = len(steps) - behind
    branch, after = (
        tuple(name for kind, name in part if norm or kind != "norm") for part in (steps[:merge], steps[merge:])
    )
    return Steps(branch, after)


def norm_first(placement: str) -> bool:
    """Whether a norm takes what its weight layer takes, and not what that gives."""
    return PLACEMENTS[placement][0].startswith("norm")


def ends_in_norm(placement: str) -> bool:
    """Whether a branch has a norm behind its last weight layer, before the merge."""
    steps = order(placement, 1, "weight", "norm").branch
    return "norm1" in steps and steps.index("norm1") > steps.index("weight1")


def ends(placement: str, last: str) -> tuple[list[str], list[str]]:
    """Kinds of step before the first and after the last block: a unit, cut where blocks begin with its rest.

    `last` says how much of the end stays: all of it ("activation"), the norm alone, or nothing.
    """
    unit = PLACEMENTS[placement][0].split()
    cut = unit.index("weight")
    kept = {"activation": ("norm", "activation"), "norm": ("norm",), "none": ()}[last]
    return unit[cut:], [kind for kind in unit[:cut] if kind in kept]


def run(owner: nn.Module, steps: Iterable[str], x: Tensor) -> Tensor:
    """Applies attributes of a module one after another."""
    for step in steps:
        function: Any = getattr(owner, step)
        x = function(x)
    return x
