"""Residual networks and their plain twins, with the published variants of the skip connection as options.

v1: He et al. 2016, "Deep Residual Learning for Image Recognition", arXiv:1512.03385.
v2: He et al. 2016, "Identity Mappings in Deep Residual Networks", arXiv:1603.05027.
Where the ImageNet form can be the same as torchvision's, it is: modules have its names, so that its weights
load and give its outputs. Like there, a bottleneck strides in its 3×3 convolution.
"""

from dataclasses import dataclass
from typing import Any, Literal, TypedDict, Unpack

import torch.nn.functional as F
from torch import Tensor, nn

from skiplab.errors import UsageError
from skiplab.models.shortcut import PadShortcut
from skiplab.models.skip import SkipConnection

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


class Options(TypedDict, total=False):
    """Keyword options that every constructor here takes; one left out has its form's published value."""

    skip: Literal["A", "B", "C"] | None
    """v1 §3.3: what a shortcut is where the shape changes. A: strided and zero-padded, no weights (CIFAR
    form's default). B: a 1×1 projection (ImageNet form's default). C: B, and projections everywhere else
    too. None: no shortcuts, the plain twin, whose weights are those of the network with option A."""
    placement: Literal["post", "pre"]
    """Post-activation (v1, default) or full pre-activation (v2, Fig. 4e), whose shortcuts take raw inputs."""
    width: int
    """Channels in the first stage, doubled in each later one: 16 (CIFAR) or 64 (ImageNet)."""
    span: Literal[1, 2, 3]
    """Weight layers, all 3×3, that one skip connection of the CIFAR form goes around: 2."""
    num_classes: int
    """Size of the output: 10 (CIFAR) or 1000 (ImageNet)."""
    in_channels: int
    """Channels of the input: 3."""


@dataclass(frozen=True)
class Design:
    """One residual network, with every choice made."""

    form: Literal["cifar", "imagenet"]
    blocks: tuple[int, ...]  # in each stage
    kernels: tuple[int, ...]  # of a branch's weight layers
    expansion: int  # output channels over inner channels of a branch
    width: int
    num_classes: int
    skip: Literal["A", "B", "C"] | None
    placement: Literal["post", "pre"] = "post"
    in_channels: int = 3

    def __post_init__(self) -> None:
        for name, choices in (("skip", ("A", "B", "C", None)), ("placement", ("post", "pre"))):
            if getattr(self, name) not in choices:
                raise UsageError(f"{name}={getattr(self, name)!r}: choose one of {choices}")
        for name in ("width", "num_classes", "in_channels"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name}={getattr(self, name)}: give a number of at least 1")


class PlainBlock(SkipConnection):
    """A few convolutions, each with its normalisation: what a residual block is without its shortcut."""

    shortcut = None

    def __init__(self, in_channels: int, channels: int, stride: int, design: Design) -> None:
        super().__init__()
        self.depth = len(design.kernels)
        self.pre_activation = design.placement == "pre"
        sizes = [in_channels, *[channels] * (self.depth - 1), channels * design.expansion]
        strided = design.kernels.index(3)
        for i, kernel in enumerate(design.kernels):
            step = stride if i == strided else 1
            conv = nn.Conv2d(sizes[i], sizes[i + 1], kernel, step, kernel // 2, bias=False)
            self.add_module(f"conv{i + 1}", conv)
            self.add_module(f"bn{i + 1}", nn.BatchNorm2d(sizes[i] if self.pre_activation else sizes[i + 1]))

    def branch(self, x: Tensor) -> Tensor:
        for i in range(1, self.depth + 1):
            conv, bn = self.get_submodule(f"conv{i}"), self.get_submodule(f"bn{i}")
            if self.pre_activation:
                x = conv(F.relu(bn(x)))
            else:
                x = bn(conv(x))
                x = F.relu(x) if i < self.depth else x  # the last one is applied after the merge
        return x

    def after(self, x: Tensor) -> Tensor:
        return x if self.pre_activation else F.relu(x)


class ResidualBlock(PlainBlock):
    """A plain block and a shortcut around it: v1 Fig. 2 and Fig. 5, or v2 Fig. 4e."""

    def __init__(self, in_channels: int, channels: int, stride: int, design: Design) -> None:
        super().__init__(in_channels, channels, stride, design)
        out_channels = channels * design.expansion
        same_shape = stride == 1 and in_channels == out_channels
        self.downsample = None
        if design.skip == "C" or (design.skip == "B" and not same_shape):
            projection = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
            # In v2 the shortcut carries the raw signal: nothing but the projection lies on it.
            norms = [] if self.pre_activation else [nn.BatchNorm2d(out_channels)]
            self.downsample = nn.Sequential(projection, *norms)
        elif not same_shape:
            self.downsample = PadShortcut(in_channels, out_channels, stride)

    def shortcut(self, x: Tensor) -> Tensor:
        return x if self.downsample is None else self.downsample(x)


class ResNet(nn.Module):
    """A stem, stages of blocks, global average pool and linear layer: (N, C, H, W) gives (N, classes)."""

    def __init__(self, design: Design) -> None:
        super().__init__()
        imagenet, width = design.form == "imagenet", design.width
        self.example_input_shape = (design.in_channels, *((224, 224) if imagenet else (32, 32)))
        kernel, stride = (7, 2) if imagenet else (3, 1)
        self.conv1 = nn.Conv2d(design.in_channels, width, kernel, stride, kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(width) if design.placement == "post" else None
        self.maxpool = nn.MaxPool2d(3, 2, 1) if imagenet else nn.Identity()
        self.stages = [f"layer{i + 1}" for i in range(len(design.blocks))]
        block = PlainBlock if design.skip is None else ResidualBlock
        channels = width
        for i, (name, count) in enumerate(zip(self.stages, design.blocks, strict=True)):
            stage = nn.Sequential()
            for j in range(count):
                inner, step = width * 2**i, 2 if i > 0 and j == 0 else 1
                stage.append(block(channels, inner, step, design))
                channels = inner * design.expansion
            self.add_module(name, stage)
        self.bn_last = nn.BatchNorm2d(channels) if design.placement == "pre" else None
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, design.num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # He et al. 2015, arXiv:1502.01852, §2.2, backward form
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        if self.bn1 is not None:
            x = F.relu(self.bn1(x))
        x = self.maxpool(x)
        for stage in self.stages:
            x = self.get_submodule(stage)(x)
        if self.bn_last is not None:
            x = F.relu(self.bn_last(x))
        return self.fc(self.avgpool(x).flatten(1))


def resnet(depth: int, form: Literal["cifar", "imagenet"] = "cifar", **options: Unpack[Options]) -> ResNet:
    """A residual network of `depth` weight layers, projections not counted.

    `form="cifar"`: v1 §4.2, depth 6n + 2, three stages, input (N, 3, 32, 32).
    `form="imagenet"`: v1 Table 1, depth 18, 34, 50, 101 or 152, input (N, 3, 224, 224).
    """
    if form not in ("cifar", "imagenet"):
        raise UsageError(f"form={form!r}: choose 'cifar' or 'imagenet'")
    if unknown := set(options) - set(Options.__annotations__):
        raise UsageError(f"no option {sorted(unknown)}: a ResNet takes {sorted(Options.__annotations__)}")
    choices: dict[str, Any] = dict(options)
    if form == "imagenet":
        if "span" in choices:
            raise UsageError("span: the ImageNet form's skips span 2 (18, 34) or 3 weight layers; leave it out")
        if depth not in BLOCKS:
            raise UsageError(f"depth={depth}: the ImageNet form has {', '.join(map(str, BLOCKS))} (v1 Table 1)")
        kernels, expansion = ((3, 3), 1) if depth < 50 else ((1, 3, 1), 4)
        published = {"width": 64, "num_classes": 1000, "skip": "B"}
        return ResNet(Design(form, BLOCKS[depth], kernels, expansion, **published | choices))
    span = choices.pop("span", 2)
    blocks, published = (_blocks_per_stage(depth, span),) * 3, {"width": 16, "num_classes": 10, "skip": "A"}
    return ResNet(Design(form, blocks, (3,) * span, 1, **published | choices))


def _blocks_per_stage(depth: int, span: int) -> int:
    """Depth 6n + 2: stem, three stages of 2n convolutions, linear layer; a block has `span` convolutions."""
    n, rest = divmod(depth - 2, 6)
    if n < 1 or rest:
        below = max(8, depth - rest)
        raise UsageError(f"depth={depth}: the CIFAR form has 6n + 2 weight layers, such as {below} or {below + 6}")
    fitting = [s for s in (1, 2, 3) if 2 * n % s == 0]
    if span not in fitting:
        raise UsageError(f"span={span}: depth {depth} has {2 * n} weight layers a stage, so it can be {fitting}")
    return 2 * n // span


def resnet18(**options: Unpack[Options]) -> ResNet:
    """ResNet-18, ImageNet form: v1 Table 1. Input (N, 3, 224, 224)."""
    return resnet(18, "imagenet", **options)


def resnet34(**options: Unpack[Options]) -> ResNet:
    """ResNet-34, ImageNet form: v1 Table 1. Input (N, 3, 224, 224)."""
    return resnet(34, "imagenet", **options)


def resnet50(**options: Unpack[Options]) -> ResNet:
    """ResNet-50, ImageNet form with bottlenecks: v1 Table 1. Input (N, 3, 224, 224)."""
    return resnet(50, "imagenet", **options)


def resnet101(**options: Unpack[Options]) -> ResNet:
    """ResNet-101, ImageNet form with bottlenecks: v1 Table 1. Input (N, 3, 224, 224)."""
    return resnet(101, "imagenet", **options)


def resnet152(**options: Unpack[Options]) -> ResNet:
    """ResNet-152, ImageNet form with bottlenecks: v1 Table 1. Input (N, 3, 224, 224)."""
    return resnet(152, "imagenet", **options)


def resnet20(**options: Unpack[Options]) -> ResNet:
    """ResNet-20, CIFAR form: v1 §4.2, Table 6. Input (N, 3, 32, 32)."""
    return resnet(20, **options)


def resnet32(**options: Unpack[Options]) -> ResNet:
    """ResNet-32, CIFAR form: v1 §4.2, Table 6. Input (N, 3, 32, 32)."""
    return resnet(32, **options)


def resnet44(**options: Unpack[Options]) -> ResNet:
    """ResNet-44, CIFAR form: v1 §4.2, Table 6. Input (N, 3, 32, 32)."""
    return resnet(44, **options)


def resnet56(**options: Unpack[Options]) -> ResNet:
    """ResNet-56, CIFAR form: v1 §4.2, Table 6. Input (N, 3, 32, 32)."""
    return resnet(56, **options)


def resnet110(**options: Unpack[Options]) -> ResNet:
    """ResNet-110, CIFAR form: v1 §4.2, Table 6. Input (N, 3, 32, 32)."""
    return resnet(110, **options)


def resnet1202(**options: Unpack[Options]) -> ResNet:
    """ResNet-1202, CIFAR form: v1 §4.2, Table 6. Input (N, 3, 32, 32)."""
    return resnet(1202, **options)
