"""Options of the blocks of residual networks that do not depend on the kind of layer."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypedDict, get_args

import torch
from torch import nn

from skiplab.errors import UsageError
from skiplab.models.combine import DropPath, Gated, Scaled, ShortcutDropout, ShortcutGated, Weighted
from skiplab.models.placement import PLACEMENTS, Last, Placement
from skiplab.models.skip import Combine
from skiplab.validation import require_one_of, require_share

Combination = Literal["add", "half", "average", "gate", "shortcut-gate", "shortcut-dropout", "rezero"]


class BlockOptions(TypedDict, total=False):
    """Options that `resnet` and `mlp` share. "v2" is He et al. 2016, arXiv:1603.05027."""

    placement: Placement
    """Position of norm and activation: v2 Table 2 and Fig. 4. "post" (default): the original. "bn-after": the last norm
    comes after the addition. "relu-before": the last activation comes before it. "relu-only": pre-activation without
    the norm. "pre": full pre-activation. The last two add an activation ("pre": a norm and an activation) after the
    last block (v2 appendix); they have as many parameters as "post" if no shortcut has any. The first block is like
    all others: its shortcut carries the raw output of the stem, in v2's appendix the activated one."""
    last: Last
    """What follows the last block of "pre" and "relu-only": "activation" (norm and activation, default), "norm", or
    "none". Without the activation the path along the shortcuts is linear, except for an ImageNet stem's max-pool."""
    combine: Combination
    """How shortcut x and branch F merge. "add" (default). From v2 §3.1 and Table 1: "half" 0.5 · x + F, "average"
    0.5 · x + 0.5 · F, "gate" (1 − g) · x + g · F (exclusive), "shortcut-gate" (1 − g) · x + F, "shortcut-dropout"
    dropout(x) + F with rate 0.5. "rezero": x + α · F, where α starts at 0 (Bachlechner et al. 2020, arXiv:2003.04887;
    without norm it is SkipInit: De and Smith 2020, arXiv:2002.10444). x is the output of the shortcut, so projections
    are scaled, gated or dropped too (v2 does not describe them). A gate is a 1×1 layer on c channels, with c² + c more
    parameters per block; "rezero" has 1 more."""
    gate_bias: float
    """Initial bias of the gates: −6 (default), the best of 0 to −10 in v2 §3.1."""
    drop_path: float
    """Stochastic depth (Huang et al. 2016, arXiv:1603.09382, §3): probability that the last branch is dropped in
    training, with linear decay towards the input (eq. 4). Default 0; the paper uses 0.5. Each sample is dropped
    independently; in the paper the whole batch is."""


@dataclass(frozen=True, kw_only=True)
class BlockDesign:
    """The values of these options; `skip=None` is the plain network."""

    skip: str | None
    placement: Placement = "post"
    last: Last = "activation"
    combine: Combination = "add"
    gate_bias: float = -6.0
    drop_path: float = 0.0

    def __post_init__(self) -> None:
        require_one_of("placement", self.placement, tuple(PLACEMENTS))
        require_one_of("last", self.last, get_args(Last))
        require_one_of("combine", self.combine, get_args(Combination))
        if self.last != "activation" and PLACEMENTS[self.placement][0].startswith("weight"):
            raise UsageError(f"last={self.last!r}: only 'pre' and 'relu-only' have an activation after the last block")
        if self.combine != "add" and (self.drop_path or self.skip is None):
            other = "drop_path" if self.drop_path else "skip=None"
            raise UsageError(f"combine={self.combine!r} and {other} exclude each other: leave one out")
        if self.drop_path and self.skip is None:
            raise UsageError("drop_path without shortcuts would cut the network: leave it out, or skip=None")
        require_share("drop_path", self.drop_path)


def combination(design: BlockDesign, gate: Callable[[], nn.Conv2d | nn.Linear], place: float) -> Combine:
    """How a block merges shortcut and branch.

    Args:
        design: the network's.
        gate: makes the weight layer of a gate, with as many outputs as inputs.
        place: number of the block, from 1, divided by the number of blocks.
    """
    if design.drop_path:
        return DropPath(design.drop_path * place)
    if design.combine in ("gate", "shortcut-gate"):
        layer = gate()
        assert layer.bias is not None
        nn.init.constant_(layer.bias, design.gate_bias)
        return (Gated if design.combine == "gate" else ShortcutGated)(layer)
    simple: dict[str, Callable[[], Combine]] = {
        "add": lambda: torch.add,
        "half": lambda: Weighted(0.5, 1.0),
        "average": lambda: Weighted(0.5, 0.5),
        "shortcut-dropout": lambda: ShortcutDropout(0.5),
        "rezero": Scaled,
    }
    return simple[design.combine]()
