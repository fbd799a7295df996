"""Deep fully connected networks: plain, and with the residual variants of `skiplab.models.block_options`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skiplab.errors import UsageError
from skiplab.models.block_options import BlockDesign, BlockOptions, combination
from skiplab.models.placement import ends, order, run
from skiplab.models.residual import PlainBlock, ResidualBlock
from skiplab.models.skip import identity
from skiplab.validation import known_options, require_one_of, require_positive, require_whole

ACTIVATIONS: dict[str | None, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "tanh": torch.tanh,
    None: identity,
}
NORMS: dict[str, Callable[[int], nn.Module]] = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm}


class Options(BlockOptions, total=False):
    """Keyword options of `mlp`. v2's ReLU stands for the `activation`, its BN for the `norm`."""

    skip: Literal["identity"] | None
    """"identity" (default), or None: the plain network, without shortcuts and with the same weights."""
    span: Literal[1, 2, 3]
    """Weight layers that one skip connection goes around: 2."""
    norm: Literal["batch", "layer"] | None
    """Batch norm, layer norm, or none (default)."""
    activation: Literal["relu", "gelu", "tanh"] | None
    """Default "relu"; None gives a linear network, unless it has layer norms."""
    in_features: int
    """Size of the input, flattened: 64."""
    out_features: int
    """Size of the output: 10."""


@dataclass(frozen=True, kw_only=True)
class Design(BlockDesign):
    """The values of all options of one network."""

    blocks: int
    width: int
    skip: Literal["identity"] | None = "identity"
    span: int = 2
    norm: Literal["batch", "layer"] | None = None
    activation: Literal["relu", "gelu", "tanh"] | None = "relu"
    in_features: int = 64
    out_features: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        require_one_of("skip", self.skip, ("identity", None))
        require_one_of("norm", self.norm, (*NORMS, None))
        require_one_of("activation", self.activation, tuple(ACTIVATIONS))
        require_positive(width=self.width, in_features=self.in_features, out_features=self.out_features)


def linear(in_features: int, out_features: int, activation: str | None = None) -> nn.Linear:
    """A linear layer, initialized to keep the size of a signal through the activation after it.

    Weights are normal with standard deviation √(2/fan-in) before ReLU or GELU (He et al. 2015, arXiv:1502.01852,
    eq. 10), else 1/√fan-in (LeCun et al. 1998, "Efficient BackProp", §4.6); biases are zero.
    """
    layer = nn.Linear(in_features, out_features)
    nn.init.normal_(layer.weight, std=((2 if activation in ("relu", "gelu") else 1) / in_features) ** 0.5)
    nn.init.zeros_(layer.bias)
    return layer


def block(design: Design, place: float) -> PlainBlock:
    """A block from `width` to `width` features; `place` is its number, from 1, divided by the number of blocks."""
    width, layers = design.width, dict[str, nn.Module]()
    for i in range(1, design.span + 1):
        layers[f"linear{i}"] = linear(width, width, design.activation)
        if design.norm:
            layers[f"norm{i}"] = NORMS[design.norm](width)
    steps = order(design.placement, design.span, "linear", "norm" if design.norm else None)
    activation = ACTIVATIONS[design.activation]
    if design.skip is None:
        return PlainBlock(layers, steps, activation)
    return ResidualBlock(layers, steps, activation, combination(design, lambda: linear(width, width), place))


class MLP(nn.Module):
    """A linear layer, blocks of constant width, a linear layer: flattens (N, ...) and gives (N, out_features)."""

    def __init__(self, design: Design) -> None:
        super().__init__()
        self.example_input_shape = (design.in_features,)
        self.activation = ACTIVATIONS[design.activation]
        first, last = (
            [k for k in kinds if design.norm or k != "norm"] for kinds in ends(design.placement, design.last)
        )
        self.stem = [{"weight": "first", "norm": "norm_first"}.get(kind, kind) for kind in first]
        self.head = [{"norm": "norm_last"}.get(kind, kind) for kind in last]
        self.first = linear(design.in_features, design.width, design.activation)
        self.blocks = nn.Sequential(*(block(design, (i + 1) / design.blocks) for i in range(design.blocks)))
        for name in {"norm_first", "norm_last"} & {*self.stem, *self.head}:
            self.add_module(name, NORMS[design.norm or ""](design.width))
        self.last = linear(design.width, design.out_features)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(run(self, self.stem, x.flatten(1)))
        return self.last(run(self, self.head, x))


def mlp(depth: int, width: int = 64, **options: Unpack[Options]) -> MLP:
    """A fully connected network of `depth` weight layers: the first, blocks of `span`, and the last.

    With `placement="pre", last="none"` the path along the shortcuts is linear. `skip=None` gives the plain network of
    any residual one with `combine="add"`.
    """
    choices = known_options(options, Options.__annotations__, "an MLP")
    span = choices.get("span", 2)
    require_one_of("span", span, (1, 2, 3))
    require_whole(depth=depth, span=span)
    blocks, rest = divmod(depth - 2, span)
    if blocks < 1 or rest:
        below = max(2 + span, depth - rest)
        raise UsageError(
            f"depth={depth}: an MLP with span={span} has {span}n + 2 weight layers, such as {below} or {below + span}"
        )
    return MLP(Design(blocks=blocks, width=width, **choices))
