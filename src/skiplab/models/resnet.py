"""Residual and plain networks, with the published variants of the skip connection as options.

v1: He et al. 2016, "Deep Residual Learning for Image Recognition", arXiv:1512.03385.
v2: He et al. 2016, "Identity Mappings in Deep Residual Networks", arXiv:1603.05027.
Wide: Zagoruyko and Komodakis 2016, "Wide Residual Networks", arXiv:1605.07146.
The ImageNet form has torchvision's module names: its weights load, and then the outputs are equal. As in torchvision, a
bottleneck has its stride in the 3×3 convolution.
"""

from dataclasses import dataclass
from typing import Literal, Unpack

import torch.nn.functional as F
from torch import Tensor, nn

from skiplab.errors import UsageError
from skiplab.models.block_options import BlockDesign, BlockOptions, combination
from skiplab.models.fixup import Bias, biased, scalars, shrink, with_scalars
from skiplab.models.placement import Steps, ends, ends_in_norm, norm_first, order, run
from skiplab.models.residual import PlainBlock, ResidualBlock
from skiplab.models.shortcut import PadShortcut
from skiplab.validation import known_options, require_one_of, require_positive, require_share, require_whole

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


class Options(BlockOptions, total=False):
    """Keyword options of all constructors in this module. The defaults are the published values of each form."""

    skip: Literal["A", "B", "C"] | None
    """Shortcuts where the shape changes, v1 §3.3. "A": strided and zero-padded, without weights (CIFAR default). "B": a
    1×1 projection (ImageNet default). "C": projections everywhere (v2 §3.1, "1×1 convolutional shortcut"). None: the
    plain network, without shortcuts, with the weights of the network with option A. A projection is followed by a norm
    if the branch ends in one."""
    norm: Literal["batch", "fixup"] | None
    """Batch norm (default), Fixup's scalars and initialization in place of norms (Zhang et al. 2019, arXiv:1901.09321),
    or none."""
    dropout: float
    """Rate of the dropout before the last convolution of a branch (Wide §2.4): 0."""
    width: int
    """Channels in the first stage, doubled in each later one: 16 (CIFAR) or 64 (ImageNet)."""
    widening: int
    """Factor on the channels of all stages of the CIFAR form, but not of the stem (k of Wide, Table 1): 1."""
    span: Literal[1, 2, 3]
    """Number of 3×3 convolutions in a block of the CIFAR form: 2."""
    num_classes: int
    """Size of the output: 10 (CIFAR) or 1000 (ImageNet)."""
    in_channels: int
    """Channels of the input: 3."""


@dataclass(frozen=True, kw_only=True)
class Design(BlockDesign):
    """The values of all options of one network."""

    form: Literal["cifar", "imagenet"]
    blocks: tuple[int, ...]  # in each stage
    kernels: tuple[int, ...]  # of a branch's weight layers
    expansion: int  # output channels over inner channels of a branch
    width: int
    num_classes: int
    widening: int = 1
    norm: Literal["batch", "fixup"] | None = "batch"
    dropout: float = 0.0
    in_channels: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        require_one_of("skip", self.skip, ("A", "B", "C", None))
        require_one_of("norm", self.norm, ("batch", "fixup", None))
        require_positive(width=self.width, widening=self.widening)
        require_positive(num_classes=self.num_classes, in_channels=self.in_channels)
        require_share("dropout", self.dropout)
        if self.skip is None and self.norm == "fixup":
            raise UsageError("norm='fixup' starts every branch at zero, so it needs shortcuts: give norm=None")

    @property
    def steps(self) -> Steps:
        """The steps of a block."""
        steps = order(self.placement, len(self.kernels), "conv", "bn" if self.norm == "batch" else None)
        if self.norm == "fixup":
            steps = with_scalars(steps)
        if self.dropout:
            last = steps.branch.index(f"conv{len(self.kernels)}")
            steps = Steps((*steps.branch[:last], "dropout", *steps.branch[last:]), steps.after)
        return steps


def block(in_channels: int, channels: int, stride: int, design: Design, place: float) -> PlainBlock:
    """A plain or residual block (v1 Fig. 2 and 5, v2 Fig. 4); `place` is its number over the number of blocks."""
    layers, steps = _layers(in_channels, channels, stride, design), design.steps
    if design.skip is None:
        return PlainBlock(layers, steps)
    out_channels = channels * design.expansion
    combine = combination(design, lambda: nn.Conv2d(out_channels, out_channels, 1), place)
    downsample = _downsample(in_channels, out_channels, stride, design)
    if downsample is not None:
        layers["downsample"] = downsample
    return ResidualBlock(layers, steps, combine=combine)


def _layers(in_channels: int, channels: int, stride: int, design: Design) -> dict[str, nn.Module]:
    depth = len(design.kernels)
    sizes = [in_channels, *[channels] * (depth - 1), channels * design.expansion]
    strided = design.kernels.index(3)
    layers: dict[str, nn.Module] = {}
    for i, kernel in enumerate(design.kernels):
        step = stride if i == strided else 1
        layers[f"conv{i + 1}"] = nn.Conv2d(sizes[i], sizes[i + 1], kernel, step, kernel // 2, bias=False)
        if design.norm == "batch":
            layers[f"bn{i + 1}"] = nn.BatchNorm2d(sizes[i if norm_first(design.placement) else i + 1])
    layers |= scalars(design.steps.branch)
    return layers | ({"dropout": nn.Dropout(design.dropout)} if design.dropout else {})


def _downsample(in_channels: int, out_channels: int, stride: int, design: Design) -> nn.Module | None:
    same_shape = stride == 1 and in_channels == out_channels
    if design.skip == "C" or (design.skip == "B" and not same_shape):
        projection = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
        if design.norm == "fixup":
            return nn.Sequential(Bias(), projection)
        normed = design.norm == "batch" and ends_in_norm(design.placement)
        return nn.Sequential(projection, *([nn.BatchNorm2d(out_channels)] if normed else []))
    return None if same_shape else PadShortcut(in_channels, out_channels, stride)


class ResNet(nn.Module):
    """A stem, stages of blocks, global average pool and linear layer: (N, C, H, W) gives (N, classes)."""

    activation = staticmethod(F.relu)

    def __init__(self, design: Design) -> None:
        super().__init__()
        imagenet, width = design.form == "imagenet", design.width
        self.example_input_shape = (design.in_channels, *((224, 224) if imagenet else (32, 32)))
        kernel, stride = (7, 2) if imagenet else (3, 1)
        self.conv1 = nn.Conv2d(design.in_channels, width, kernel, stride, kernel // 2, bias=False)
        self.stem, self.head, self.classifier = _around(design)
        self.bn1 = nn.BatchNorm2d(width) if "bn1" in self.stem else None
        self.maxpool = nn.MaxPool2d(3, 2, 1) if imagenet else nn.Identity()
        channels = self._add_stages(design)
        self.bn_last = nn.BatchNorm2d(channels) if "bn_last" in self.head else None
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, design.num_classes)
        for name, module in scalars((*self.stem, *self.head, *self.classifier)).items():
            self.add_module(name, module)
        self._initialize(design)

    def _add_stages(self, design: Design) -> int:
        self.stages = [f"layer{i + 1}" for i in range(len(design.blocks))]
        channels, number = design.width, 0
        for i, (name, count) in enumerate(zip(self.stages, design.blocks, strict=True)):
            stage = nn.Sequential()
            for j in range(count):
                number += 1
                inner, step = design.width * design.widening * 2**i, 2 if i > 0 and j == 0 else 1
                stage.append(block(channels, inner, step, design, number / sum(design.blocks)))
                channels = inner * design.expansion
            self.add_module(name, stage)
        return channels

    def _initialize(self, design: Design) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # He et al. 2015, arXiv:1502.01852, §2.2, backward form
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if design.norm == "fixup":
            depth = len(design.kernels)
            blocks = [made for made in self.modules() if isinstance(made, PlainBlock)]
            shrink([[made.get_parameter(f"conv{i + 1}.weight") for i in range(depth)] for made in blocks], self.fc)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(run(self, self.stem, x))
        for stage in self.stages:
            x = self.get_submodule(stage)(x)
        x = run(self, self.head, x)
        return run(self, self.classifier, self.avgpool(x).flatten(1))


def _around(design: Design) -> tuple[list[str], list[str], list[str]]:
    """The steps before the blocks, after the blocks, and after the average pool."""
    first, last = (
        [kind for kind in kinds if design.norm == "batch" or kind != "norm"]
        for kinds in ends(design.placement, design.last)
    )
    stem = [{"weight": "conv1", "norm": "bn1"}.get(kind, kind) for kind in first]
    head = [{"norm": "bn_last"}.get(kind, kind) for kind in last]
    if design.norm != "fixup":
        return stem, head, ["fc"]
    return [stem[0], *biased(stem[1:])], biased(head, 2), biased(["fc"], 3)


def resnet(depth: int, form: Literal["cifar", "imagenet"] = "cifar", **options: Unpack[Options]) -> ResNet:
    """A residual network of `depth` weight layers, projections not counted.

    `form="cifar"`: v1 §4.2, depth 6n + 2, three stages, input (N, 3, 32, 32).
    `form="imagenet"`: v1 Table 1, depth 18, 34, 50, 101 or 152, input (N, 3, 224, 224).
    """
    if form not in ("cifar", "imagenet"):
        raise UsageError(f"form={form!r}: choose 'cifar' or 'imagenet'")
    choices = known_options(options, Options.__annotations__, "a ResNet")
    require_whole(depth=depth, span=choices.get("span", 2))
    if form == "imagenet":
        if "span" in choices:
            raise UsageError("span: the ImageNet form's skips span 2 (18, 34) or 3 weight layers; leave it out")
        if "widening" in choices:
            raise UsageError("widening: the ImageNet form has `width` alone; leave it out")
        if depth not in BLOCKS:
            raise UsageError(f"depth={depth}: the ImageNet form has {', '.join(map(str, BLOCKS))} (v1 Table 1)")
        kernels, expansion = ((3, 3), 1) if depth < 50 else ((1, 3, 1), 4)
        choices = {"width": 64, "num_classes": 1000, "skip": "B"} | choices
        return ResNet(Design(form=form, blocks=BLOCKS[depth], kernels=kernels, expansion=expansion, **choices))
    span = choices.pop("span", 2)
    blocks = (_blocks_per_stage(depth, span),) * 3
    choices = {"width": 16, "num_classes": 10, "skip": "A"} | choices
    return ResNet(Design(form=form, blocks=blocks, kernels=(3,) * span, expansion=1, **choices))


def _blocks_per_stage(depth: int, span: int) -> int:
    """Depth 6n + 2: a stem, three stages of 2n convolutions in blocks of `span`, and a linear layer."""
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


def wide_resnet(depth: int, **options: Unpack[Options]) -> ResNet:
    """WRN-depth-widening with blocks B(3, 3): Wide, Table 1, depth 6n + 4, input (N, 3, 32, 32).

    This is `resnet` in its CIFAR form with pre-activation, projections and wider stages (default `widening=10`). The
    paper's depth counts the three projections and not the linear layer, so it is two more than `resnet`'s. Projections
    read the raw input of the block, as in all pre-activation networks of this package; in the authors' code they read
    the activated input. The paper uses `dropout=0.3` (§3).
    """
    require_whole(depth=depth)
    if depth < 10 or (depth - 4) % 6:
        below = max(10, depth - (depth - 4) % 6)
        raise UsageError(f"depth={depth}: a wide ResNet has 6n + 4 weight layers, such as {below} or {below + 6}")
    published: Options = {"placement": "pre", "skip": "B", "widening": 10}
    return resnet(depth - 2, **published | options)


def wide_resnet28_10(**options: Unpack[Options]) -> ResNet:
    """WRN-28-10: Wide, Table 4, 36.5 million parameters. Input (N, 3, 32, 32)."""
    return wide_resnet(28, **options)
