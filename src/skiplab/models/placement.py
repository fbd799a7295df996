"""Position of norm and activation around an addition: He et al. 2016, arXiv:1603.05027, Table 2 and Fig. 4.

A placement is the order of weight layer, norm and activation in a branch, and how many steps at its end come after the
merge. The steps at the beginning and the end of the network follow from these two.
"""

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

from torch import Tensor, nn

Placement = Literal["post", "bn-after", "relu-before", "relu-only", "pre"]
Last = Literal["activation", "norm", "none"]
PLACEMENTS = {
    "post": ("weight norm activation", 1),  # Fig. 4a, the original: the last activation after the merge
    "bn-after": ("weight norm activation", 2),  # Fig. 4b: the last norm and activation after the merge
    "relu-before": ("weight norm activation", 0),  # Fig. 4c: the output of a branch is never negative
    "relu-only": ("activation weight norm", 0),  # Fig. 4d
    "pre": ("norm activation weight", 0),  # Fig. 4e, full pre-activation
}


class Steps(NamedTuple):
    """Names of the block's attributes that run in the branch and after the merge, in order."""

    branch: tuple[str, ...]
    after: tuple[str, ...]


def order(placement: str, depth: int, weight: str, norm: str | None) -> Steps:
    """The steps of a branch of `depth` weight layers.

    Args:
        placement: a key of `PLACEMENTS`. Without norm, "bn-after" equals "post" and "relu-only" equals "pre".
        depth: number of weight layers.
        weight, norm: names of weight layers and norms, to which numbers are appended: "conv" gives `conv1`. None for
            no norm.
    """
    unit, after_merge = PLACEMENTS[placement]
    names = {"weight": weight, "norm": norm or ""}
    steps = [
        (kind, "activation" if kind == "activation" else f"{names[kind]}{i}")
        for i in range(1, depth + 1)
        for kind in unit.split()
    ]
    merge = len(steps) - after_merge
    branch, after = (
        tuple(name for kind, name in part if norm or kind != "norm") for part in (steps[:merge], steps[merge:])
    )
    return Steps(branch, after)


def norm_first(placement: str) -> bool:
    """Whether a norm comes before its weight layer."""
    return PLACEMENTS[placement][0].startswith("norm")


def ends_in_norm(placement: str) -> bool:
    """Whether a branch has a norm between its last weight layer and the merge."""
    steps = order(placement, 1, "weight", "norm").branch
    return "norm1" in steps and steps.index("norm1") > steps.index("weight1")


def ends(placement: str, last: str) -> tuple[list[str], list[str]]:
    """The kinds of step before the first block and after the last.

    The network starts with the weight layer and what follows it in a branch, and ends with what precedes it.

    Args:
        placement: a key of `PLACEMENTS`.
        last: what stays of the end: norm and activation ("activation"), the norm ("norm"), or nothing ("none").
    """
    unit = PLACEMENTS[placement][0].split()
    cut = unit.index("weight")
    kept = {"activation": ("norm", "activation"), "norm": ("norm",), "none": ()}[last]
    return unit[cut:], [kind for kind in unit[:cut] if kind in kept]


def run(owner: nn.Module, steps: Iterable[str], x: Tensor) -> Tensor:
    """Applies a module's attributes of these names, one after another."""
    for step in steps:
        function: Any = getattr(owner, step)
        x = function(x)
    return x
