"""U-Net: an encoder and a decoder, joined by a long skip at each resolution.

Ronneberger, Fischer and Brox 2015, "U-Net: Convolutional Networks for Biomedical Image Segmentation",
arXiv:1505.04597. Convolutions are padded, unlike in the paper, so that the output has the size of the input.
"""

from dataclasses import dataclass
from typing import Literal, TypedDict, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skiplab.errors import UsageError
from skiplab.models.combine import concat
from skiplab.models.skip import SkipConnection, identity
from skiplab.validation import known_options, require_one_of, require_positive


class Options(TypedDict, total=False):
    """Keyword options of `unet`. The defaults are the paper's values (Fig. 1)."""

    depth: int
    """Number of times that the resolution is halved, and number of long skips: 4."""
    width: int
    """Channels at the resolution of the input, doubled at each halving: 64."""
    in_channels: int
    """Channels of the input: 1."""
    num_classes: int
    """Classes of a pixel, and channels of the output: 2."""
    skips: bool | tuple[bool, ...]
    """Whether there are long skips: True (default), False, or one truth value for each of `depth` levels, from the
    resolution of the input down."""
    combine: Literal["concat", "add"]
    """How long skips merge: "concat" (default) or "add". With "add" the number of parameters does not depend on
    `skips`. With "concat" a skip at level i, with c = width · 2^i channels, adds 9c² weights to the convolution that
    reads it and, with `residual`, replaces the identity next to it by a projection of 2c² weights."""
    residual: bool
    """Whether each pair of convolutions has a shortcut; a 1×1 projection without bias where the number of channels
    changes. Default False."""
    norm: bool
    """Whether each 3×3 convolution is followed by a batch norm, and has no bias. Default False."""


@dataclass(frozen=True)
class Design:
    """The values of all options of one network."""

    depth: int = 4
    width: int = 64
    in_channels: int = 1
    num_classes: int = 2
    skips: bool | tuple[bool, ...] = True
    combine: Literal["concat", "add"] = "concat"
    residual: bool = False
    norm: bool = False

    def __post_init__(self) -> None:
        require_positive(depth=self.depth, width=self.width)
        require_positive(in_channels=self.in_channels, num_classes=self.num_classes)
        require_one_of("combine", self.combine, ("concat", "add"))
        require_one_of("residual", self.residual, (True, False))
        require_one_of("norm", self.norm, (True, False))
        on = self.skips if isinstance(self.skips, (tuple, list)) else (self.skips,) * self.depth
        if len(on) != self.depth or not all(isinstance(each, bool) for each in on):
            raise UsageError(f"skips={self.skips!r}: give True, False, or {self.depth} of them, one for each level")

    def has_skip(self, level: int) -> bool:
        return self.skips if isinstance(self.skips, bool) else self.skips[level]


class Convolutions(SkipConnection):
    """Two 3×3 convolutions, each with its ReLU: (N, C, H, W) gives (N, D, H, W).

    With `residual`, a shortcut leads from the input to the input of the second ReLU, as in a residual block (He et
    al. 2016, arXiv:1512.03385, Fig. 2).
    """

    def __init__(self, in_channels: int, channels: int, design: Design) -> None:
        shortcut = None
        if design.residual:
            same = in_channels == channels
            shortcut = identity if same else nn.Conv2d(in_channels, channels, 1, bias=False)
        branch = nn.Sequential()
        for taken in (in_channels, channels):
            branch.append(nn.Conv2d(taken, channels, 3, padding=1, bias=not design.norm))
            if design.norm:
                branch.append(nn.BatchNorm2d(channels))
            branch.append(nn.ReLU())
        super().__init__(branch[:-1], shortcut, after=branch[-1])


class Level(SkipConnection):
    """One resolution: down → inner → up, with a long skip around them.

    (N, C, H, W) gives the same shape; H and W are even. Levels nest: `inner` is the level of the next lower resolution.
    """

    def __init__(self, level: int, design: Design) -> None:
        channels, skip = design.width * 2**level, design.has_skip(level)
        joined = skip and design.combine == "concat"
        super().__init__(
            shortcut=identity if skip else None,
            combine=concat if joined else torch.add,
            after=Convolutions(2 * channels if joined else channels, channels, design),
        )
        self.down = nn.MaxPool2d(2)
        self.encode = Convolutions(channels, 2 * channels, design)
        self.inner = Level(level + 1, design) if level + 1 < design.depth else nn.Identity()
        self.up = nn.ConvTranspose2d(2 * channels, channels, 2, stride=2)

    def branch(self, x: Tensor) -> Tensor:
        return self.up(self.inner(self.encode(self.down(x))))


class UNet(nn.Module):
    """(N, C, H, W) gives (N, classes, H, W), for any H and W.

    If H or W is no multiple of 2^depth, the input is padded by its border pixels, half on each side, and the output is
    cropped.
    """

    def __init__(self, design: Design) -> None:
        super().__init__()
        self.multiple = 2**design.depth
        self.example_input_shape = (design.in_channels, 64, 64)
        self.encode = Convolutions(design.in_channels, design.width, design)
        self.level = Level(0, design)
        self.head = nn.Conv2d(design.width, design.num_classes, 1)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
                # A standard deviation of √(2/N) for N incoming nodes (§3; He et al. 2015). For an up-convolution, which
                # is followed by no ReLU, torch counts 2N, which gives √(1/N), as suits a linear layer.
                nn.init.kaiming_normal_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        below, right = -height % self.multiple, -width % self.multiple
        top, left = below // 2, right // 2
        if below or right:
            x = F.pad(x, (left, right - left, top, below - top), mode="replicate")
        x = self.head(self.level(self.encode(x)))
        return x[..., top : top + height, left : left + width] if below or right else x


def unet(**options: Unpack[Options]) -> UNet:
    """A U-Net; without options that of the paper, Fig. 1. Input (N, 1, H, W) of any size, output (N, 2, H, W)."""
    return UNet(Design(**known_options(options, Options.__annotations__, "a U-Net")))
