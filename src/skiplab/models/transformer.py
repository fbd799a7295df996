"""Transformer layers that differ in one object: the placement of norms, and whether there are shortcuts.

Vaswani et al. 2017, "Attention Is All You Need", arXiv:1706.03762; pre- and post-LN: Xiong et al. 2020,
arXiv:2002.04745, Fig. 1. Parallel: x + attention(LN x) + MLP(LN x) (GPT-J; PaLM, Chowdhery et al. 2022,
arXiv:2204.02311, §2), here with a norm for each branch, as in GPT-NeoX (Black et al. 2022, arXiv:2204.06745, §2.1),
so that a layer has the same weights in every placement.
Parameters have the names of those of `nn.TransformerEncoderLayer` and `nn.TransformerDecoderLayer`.
"""

from dataclasses import dataclass
from functools import reduce
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skiplab.models.attention import Attention
from skiplab.models.skip import SkipConnection, identity
from skiplab.validation import require_one_of, require_positive, require_share

Placement = Literal["pre", "post", "parallel"]


@dataclass(frozen=True)
class Design:
    """Options that all layers of a Transformer share."""

    width: int = 64
    heads: int = 4
    hidden: int | None = None  # width inside the MLP; None is 4 × width
    dropout: float = 0.0
    activation: Literal["relu", "gelu"] = "gelu"
    placement: Placement = "pre"
    skip: bool = True
    causal: bool = False

    def __post_init__(self) -> None:
        require_one_of("placement", self.placement, get_args(Placement))
        require_one_of("activation", self.activation, ("relu", "gelu"))
        require_positive(width=self.width, heads=self.heads)
        if self.hidden is not None:
            require_positive(hidden=self.hidden)
        require_share("dropout", self.dropout)
        require_one_of("skip", self.skip, (True, False))
        require_one_of("causal", self.causal, (True, False))

    @property
    def inner(self) -> int:
        """Width inside the MLP."""
        return self.hidden or 4 * self.width


class SublayerSkip(SkipConnection):
    """The skip connection of one sublayer, or of several in parallel.

    Args:
        layer: owns norms and sublayers. It is stored in a tuple and so is not registered as a submodule: each weight
            keeps its published name alone.
        branches: name of the norm -> name of the sublayer's method.
        design: the options of the network.
    """

    def __init__(self, layer: nn.Module, branches: dict[str, str], design: Design) -> None:
        super().__init__(shortcut=identity if design.skip else None)
        self.layer, self.branches, self.post = (layer,), branches, design.placement == "post"

    def branch(self, x: Tensor, *context: Tensor) -> Tensor:
        (layer,) = self.layer
        inputs = {norm: x if self.post else getattr(layer, norm)(x) for norm in self.branches}
        return reduce(torch.add, [getattr(layer, name)(inputs[norm], *context) for norm, name in self.branches.items()])

    def after(self, x: Tensor) -> Tensor:
        (layer,), (norm, *_) = self.layer, self.branches
        return getattr(layer, norm)(x) if self.post else x


class Layer(nn.Module):
    """Sublayers with a norm and a skip connection each: (N, T, width) gives the same shape.

    A subclass has the attributes that `sublayers` names. `skip=False` removes the shortcuts and nothing else.
    """

    sublayers: dict[str, str]  # name of the norm -> name of the sublayer's method

    def __init__(self, design: Design) -> None:
        super().__init__()
        if design.placement == "parallel":
            skips = {"parallel": self.sublayers}
        else:
            skips = {sublayer: {norm: sublayer} for norm, sublayer in self.sublayers.items()}
        self.skips = nn.ModuleDict({name: SublayerSkip(self, branches, design) for name, branches in skips.items()})

    def forward(self, x: Tensor, *context: Tensor) -> Tensor:
        for skip in self.skips.values():
            x = skip(x, *context)
        return x


class EncoderLayer(Layer):
    """Self-attention and MLP: equals `nn.TransformerEncoderLayer(batch_first=True)` with the same weights."""

    sublayers = {"norm1": "attend", "norm2": "feed"}  # noqa: RUF012

    def __init__(self, design: Design) -> None:
        super().__init__(design)
        width = design.width
        self.self_attn = Attention(width, design.heads, design.dropout, design.causal)
        self.linear1, self.linear2 = nn.Linear(width, design.inner), nn.Linear(design.inner, width)
        self.activation = F.relu if design.activation == "relu" else F.gelu
        self.dropout = nn.Dropout(design.dropout)
        for norm in self.sublayers:
            self.add_module(norm, nn.LayerNorm(width))

    def attend(self, x: Tensor, *_memory: Tensor) -> Tensor:
        return self.dropout(self.self_attn(x))

    def feed(self, x: Tensor, *_memory: Tensor) -> Tensor:
        return self.dropout(self.linear2(self.dropout(self.activation(self.linear1(x)))))


class DecoderLayer(EncoderLayer):
    """Self-attention, attention to a `memory` (N, S, width), and MLP: equals `nn.TransformerDecoderLayer`."""

    sublayers = {"norm1": "attend", "norm2": "look", "norm3": "feed"}  # noqa: RUF012

    def __init__(self, design: Design) -> None:
        super().__init__(design)
        self.multihead_attn = Attention(design.width, design.heads, design.dropout)

    def look(self, x: Tensor, memory: Tensor) -> Tensor:
        return self.dropout(self.multihead_attn(x, memory))


class Stack(nn.Module):
    """A sequence of layers, and a final norm for "pre" and "parallel" (2 · width more parameters, as published).

    Names and outputs are those of `nn.TransformerEncoder` and `nn.TransformerDecoder`.
    """

    def __init__(self, kind: type[Layer], depth: int, design: Design) -> None:
        super().__init__()
        require_positive(depth=depth)
        self.layers = nn.ModuleList(kind(design) for _ in range(depth))
        self.norm = nn.Identity() if design.placement == "post" else nn.LayerNorm(design.width)

    def forward(self, x: Tensor, *memory: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x, *memory)
        return self.norm(x)
