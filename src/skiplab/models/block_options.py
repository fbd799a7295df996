"""What residual networks let one choose of a skip connection, whatever their layers are."""

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
    """Options of every residual network here. "v2" is He et al. 2016, arXiv:1603.05027."""

    placement: Placement
    """Where norm and activation stand: v2 Table 2 and Fig. 4. "post": the original (default), "bn-after":
    the norm after the addition too, "relu-before": the activation before it, "relu-only": pre-activation
    without the norm, "pre": full pre-activation. The last two have one more activation ("pre" with its norm)
    after the last block (v2 appendix); as many parameters as "post" where the shortcuts have none. The first block
    is like all others: its shortcut is the stem's raw output, where v2's appendix has the activated one."""
    last: Last
    """How much of that stays: "activation" (all, default), "norm", "none". Without the activation nothing
    nonlinear lies between input and output along the shortcuts, but for an ImageNet stem's max-pool."""
    combine: Combination
    """How the two ways join: "add" (default); v2 §3.1 and Table 1: "half" 0.5 · x + F, "average"
    0.5 · x + 0.5 · F, "gate" (1 − g) · x + g · F (exclusive), "shortcut-gate" (1 − g) · x + F,
    "shortcut-dropout" dropout(x) + F at ratio 0.5; "rezero": x + α · F, α first 0 (Bachlechner et al. 2020,
    arXiv:2003.04887; without norm it is SkipInit: De and Smith 2020, arXiv:2002.10444). Here x is what the
    shortcut gives, so that shape-changing ones (of which v2 says nothing) are scaled, gated or dropped too.
    A gate is a 1×1 layer on c channels: c² + c more parameters a block; rezero: 1 more."""
    gate_bias: float
    """What a gate's bias starts as, default −6: best of 0 to −10 in v2 §3.1."""
    drop_path: float
    """Stochastic depth (Huang et al. 2016, arXiv:1603.09382, §3): probability that the last branch is dropped in
    training, with linear decay towards the input (eq. 4); default 0, the paper's 0.5. Here each sample draws
    for itself; there the whole batch drops at once."""


@dataclass(frozen=True, kw_only=True)
class BlockDesign:
    """Those options with every choice made; `skip=None` is the plain twin."""

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
    """The design's combine for a block.

    Args:
        design: of the network.
        gate: makes a gate's weight layer, from as many channels to as many.
        place: the block's number over the number of blocks, above 0 to 1.
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
