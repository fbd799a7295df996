"""Densely connected networks, and their plain networks, in which each layer reads only the one before it.

Huang, Liu, van der Maaten and Weinberger 2017, "Densely Connected Convolutional Networks", arXiv:1608.06993.
The ImageNet form has torchvision's module names: its weights load, and then the outputs are equal.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skiplab.errors import UsageError
from skiplab.models.skip import SkipConnection
from skiplab.validation import known_options, require_positive, require_whole

# Depth: layers in each block, growth rate, channels of the first convolution (Table 1; 161 is wider, k = 48).
IMAGENET = {
    121: ((6, 12, 24, 16), 32, 64),
    161: ((6, 12, 36, 24), 48, 96),
    169: ((6, 12, 32, 32), 32, 64),
    201: ((6, 12, 48, 32), 32, 64),
}
Signal = tuple[Tensor, ...]  # what a layer reads: the block's input and earlier outputs, each (N, channels, H, W)


class Options(TypedDict, total=False):
    """Keyword options of all constructors in this module. The defaults are the published values of each form."""

    skip: bool
    """False: no shortcuts. A layer then reads the k channels of the layer before it, and a transition those of the
    block's last layer; all outputs keep their widths, so norms and convolutions have fewer input channels: DenseNet-121
    has 7,978,856 parameters, and 2,573,864 without shortcuts."""
    growth: int
    """Growth rate k, the channels that a layer adds: 12 (CIFAR); 32, or 48 for depth 161 (ImageNet)."""
    width: int
    """Channels of the first convolution: 16, or 2k with bottlenecks (CIFAR); 64, or 96 for depth 161 (ImageNet)."""
    num_classes: int
    """Size of the output: 10 (CIFAR) or 1000 (ImageNet)."""
    in_channels: int
    """Channels of the input: 3."""


@dataclass(frozen=True)
class Design:
    """The values of all options of one network."""

    form: Literal["cifar", "imagenet"]
    layers: tuple[int, ...]  # in each block
    bottleneck: bool  # DenseNet-BC: layers start with a 1×1 convolution to 4k channels, transitions halve the channels
    growth: int
    width: int
    num_classes: int
    in_channels: int = 3
    skip: bool = True

    def __post_init__(self) -> None:
        require_positive(growth=self.growth, width=self.width)
        require_positive(num_classes=self.num_classes, in_channels=self.in_channels)
        for name in ("bottleneck", "skip"):
            if not isinstance(getattr(self, name), bool):
                raise UsageError(f"{name}={getattr(self, name)!r}: choose True or False")


def concatenated(signal: Sequence[Tensor]) -> Tensor:
    """(N, C, ...), (N, D, ...), … give (N, C + D + …, ...)."""
    return torch.cat(tuple(signal), dim=1)


class PlainLayer(SkipConnection):
    """Norm, ReLU and convolution, twice with a bottleneck. Passes on only its own output, as a 1-tuple."""

    shortcut = None

    def __init__(self, in_channels: int, design: Design) -> None:
        super().__init__()
        growth, inner = design.growth, 4 * design.growth
        # Kernels 1 and 3 (DenseNet-BC) or 3 alone, §3 "Bottleneck layers".
        sizes = [(in_channels, inner, 1), (inner, growth, 3)] if design.bottleneck else [(in_channels, growth, 3)]
        self.depth = len(sizes)
        for i, (taken, given, kernel) in enumerate(sizes, 1):
            self.add_module(f"norm{i}", nn.BatchNorm2d(taken))
            self.add_module(f"conv{i}", nn.Conv2d(taken, given, kernel, padding=kernel // 2, bias=False))

    def branch(self, signal: Signal) -> Tensor:
        x = concatenated(signal)
        for i in range(1, self.depth + 1):
            x = self.get_submodule(f"conv{i}")(F.relu(self.get_submodule(f"norm{i}")(x)))
        return x

    def after(self, x: Any) -> Signal:
        return (x,)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        """Accepts the names in torchvision's published files, which are older: norm.1 for norm1."""
        for kind in ("norm", "conv"):
            for key in [key for key in state_dict if key.startswith(f"{prefix}{kind}.")]:
                state_dict[key.replace(f"{prefix}{kind}.", f"{prefix}{kind}", 1)] = state_dict.pop(key)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


class DenseLayer(PlainLayer):
    """Reads all earlier outputs on the branch, and passes all of them on by the shortcut (eq. 2)."""

    def shortcut(self, signal: Signal) -> Signal:
        return signal

    def combine(self, shortcut: Signal, branch: Tensor) -> Signal:
        return (*shortcut, branch)

    def after(self, x: Any) -> Signal:
        return x


class DenseBlock(nn.Sequential):
    """Layers at one resolution: (N, C, H, W) gives (N, C + kL, H, W), or (N, k, H, W) without skips."""

    def __init__(self, in_channels: int, layers: int, design: Design) -> None:
        super().__init__()
        for i in range(layers):
            if design.skip:
                layer = DenseLayer(in_channels + i * design.growth, design)
            else:
                layer = PlainLayer(in_channels if i == 0 else design.growth, design)
            self.add_module(f"denselayer{i + 1}", layer)
        self.out_channels = in_channels + layers * design.growth if design.skip else design.growth

    def forward(self, input: Tensor) -> Tensor:
        return concatenated(super().forward((input,)))


class Transition(nn.Sequential):
    """Between two blocks: (N, C, H, W) gives (N, D, H/2, W/2). §3 "Pooling layers"."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(in_channels)
        self.relu = nn.ReLU()
        self.conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.pool = nn.AvgPool2d(2)


class DenseNet(nn.Module):
    """A stem, dense blocks with transitions between, average pool and linear layer: (N, C, H, W) gives (N, classes)."""

    def __init__(self, design: Design) -> None:
        super().__init__()
        imagenet, width = design.form == "imagenet", design.width
        self.example_input_shape = (design.in_channels, *((224, 224) if imagenet else (32, 32)))
        self.features = nn.Sequential()
        kernel, stride = (7, 2) if imagenet else (3, 1)
        conv = nn.Conv2d(design.in_channels, width, kernel, stride, kernel // 2, bias=False)
        self.features.add_module("conv0", conv)
        if imagenet:
            stem = {"norm0": nn.BatchNorm2d(width), "relu0": nn.ReLU(), "pool0": nn.MaxPool2d(3, 2, 1)}
            for name, module in stem.items():
                self.features.add_module(name, module)
        full = channels = width  # number of channels with all skips, and the actual number
        for i, layers in enumerate(design.layers, 1):
            block = DenseBlock(channels, layers, design)
            self.features.add_module(f"denseblock{i}", block)
            channels, full = block.out_channels, full + layers * design.growth
            if i < len(design.layers):
                full = full // 2 if design.bottleneck else full
                self.features.add_module(f"transition{i}", Transition(channels, full))
                channels = full
        self.features.add_module(f"norm{len(design.layers) + 1}", nn.BatchNorm2d(channels))
        self.classifier = nn.Linear(channels, design.num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # He et al. 2015, arXiv:1502.01852, §2.2, as in the authors' code
                nn.init.kaiming_normal_(module.weight)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.features(x))
        return self.classifier(F.adaptive_avg_pool2d(x, 1).flatten(1))


def densenet(
    depth: int,
    form: Literal["cifar", "imagenet"] = "cifar",
    bottleneck: bool | None = None,
    **options: Unpack[Options],
) -> DenseNet:
    """A densely connected network of `depth` weight layers.

    `form="cifar"`: Table 2, three blocks, input (N, 3, 32, 32); depth 3n + 4, or with `bottleneck=True`
    (DenseNet-BC) depth 6n + 4.
    `form="imagenet"`: Table 1, depth 121, 161, 169 or 201, always DenseNet-BC, input (N, 3, 224, 224).
    """
    if form not in ("cifar", "imagenet"):
        raise UsageError(f"form={form!r}: choose 'cifar' or 'imagenet'")
    choices = known_options(options, Options.__annotations__, "a DenseNet")
    require_whole(depth=depth)
    if form == "imagenet":
        if depth not in IMAGENET:
            raise UsageError(f"depth={depth}: the ImageNet form has {', '.join(map(str, IMAGENET))} (Table 1)")
        if bottleneck is False:
            raise UsageError("bottleneck=False: the ImageNet form always has bottlenecks; leave it out")
        layers, growth, width = IMAGENET[depth]
        published: dict[str, Any] = {"growth": growth, "width": width, "num_classes": 1000}
        return DenseNet(Design(form, layers, True, **published | choices))
    bottleneck = bool(bottleneck)
    width = 2 * choices.get("growth", 12) if bottleneck else 16
    published = {"growth": 12, "width": width, "num_classes": 10}
    return DenseNet(Design(form, (_layers_per_block(depth, bottleneck),) * 3, bottleneck, **published | choices))


def _layers_per_block(depth: int, bottleneck: bool) -> int:
    """Depth: first convolution, two transitions, linear layer, and three blocks of layers of 1 or 2 convolutions."""
    per_layer = 6 if bottleneck else 3
    layers, rest = divmod(depth - 4, per_layer)
    if layers < 1 or rest:
        below = max(4 + per_layer, depth - rest)
        form = f"{per_layer}n + 4 weight layers {'with' if bottleneck else 'without'} bottlenecks"
        raise UsageError(f"depth={depth}: the CIFAR form has {form}, such as {below} or {below + per_layer}")
    return layers


def densenet121(**options: Unpack[Options]) -> DenseNet:
    """DenseNet-121, ImageNet form: Table 1, k = 32. Input (N, 3, 224, 224)."""
    return densenet(121, "imagenet", **options)


def densenet161(**options: Unpack[Options]) -> DenseNet:
    """DenseNet-161, ImageNet form with k = 48: §4.2. Input (N, 3, 224, 224)."""
    return densenet(161, "imagenet", **options)


def densenet169(**options: Unpack[Options]) -> DenseNet:
    """DenseNet-169, ImageNet form: Table 1, k = 32. Input (N, 3, 224, 224)."""
    return densenet(169, "imagenet", **options)


def densenet201(**options: Unpack[Options]) -> DenseNet:
    """DenseNet-201, ImageNet form: Table 1, k = 32. Input (N, 3, 224, 224)."""
    return densenet(201, "imagenet", **options)
