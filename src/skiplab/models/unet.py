"""U-Net: an encoder and a decoder, with a long skip between them at every resolution.

Ronneberger, Fischer and Brox 2015, "U-Net: Convolutional Networks for Biomedical Image Segmentation",
arXiv:1505.04597. Unlike there, convolutions are padded, so that the output has the input's size.
"""

from dataclasses import dataclass
from typing import Literal, TypedDict, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skiplab.errors import UsageError
from skiplab.models.combine import concat
from skiplab.models.skip import SkipConnection, identity
from skiplab.validation import checked, require_one_of, require_positive


class Options(TypedDict, total=False):
    """Keyword options of `unet`; one left out has the paper's value (Fig. 1)."""

    depth: int
    """How often the resolution is halved, and how many long skips there are: 4."""
    width: int
    """Channels at the input's resolution, doubled at each halving: 64."""
    in_channels: int
    """Channels of the input: 1."""
    num_classes: int
    """Classes of a pixel, and channels of the output: 2."""
    skips: bool | tuple[bool, ...]
    """True. Which long skips there are: all or none, or for each of `depth` levels whether it has one, from the
    input's resolution down."""
    combine: Literal["concat", "add"]
    """"concat". With "add" a network has as many parameters without its skips as with them. With "concat" a
    skip at level i, where there are c = width · 2^i channels, makes the convolution that reads it 9c² weights larger
    and, with `residual`, the identity beside it a projection of 2c²."""
    residual: bool
    """False. Whether each pair of convolutions has a shortcut around it, a 1×1 projection (without bias, in · out
    weights) where its number of channels changes."""
    norm: bool
    """False. Batch normalisation after each 3×3 convolution, which then has no bias."""


@dataclass(frozen=True)
class Design:
    """One U-Net, with every choice made."""

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

    With `residual`, a shortcut goes from before the first to before the second ReLU, as in a residual block (He et
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
    """What is done with the features of one resolution: down → inner → up, and a long skip around that.

    (N, C, H, W) gives the same shape, with even H and W. Levels nest: `inner` is the next lower one.
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

    Where these are no multiples of 2^depth, the input is continued beyond its borders by its outermost pixels, half of
    them on either side, and the output cut back.
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
                # has no ReLU behind it, torch counts 2N, which makes √(1/N), what a linear layer should have.
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
    """A U-Net; with no options the paper's, Fig. 1. Input (N, 1, H, W) of any size, output (N, 2, H, W)."""
    return UNet(Design(**checked(options, Options.__annotations__, "a U-Net")))
