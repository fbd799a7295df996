"""Highway networks, and plain networks without their gates.

Srivastava, Greff and Schmidhuber 2015, "Highway Networks", arXiv:1505.00387, and the longer "Training Very Deep
Networks", arXiv:1507.06228.
"""

from dataclasses import dataclass
from typing import Literal, TypedDict, Unpack

from torch import Tensor, nn

from skiplab.errors import UsageError
from skiplab.models.combine import Gated
from skiplab.models.skip import SkipConnection, identity
from skiplab.validation import known_options, require_one_of, require_positive, require_whole

ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh}


class Options(TypedDict, total=False):
    """Keyword options of `highway`, with their defaults."""

    skip: bool
    """False gives the plain network, without shortcuts and gates. Default True. A plain layer has half of the
    parameters, since a gate is as large as the layer that it gates: w² + w for width w (linear), 9w² + w for w channels
    (conv). For equal size, compare width 71 without gates with width 50 with them: 5,112 and 5,100 parameters per layer
    in the linear form (arXiv:1507.06228, §3.1)."""
    gate_bias: float
    """Initial bias of the gates: −2. Below 0 a layer first passes on its input: −1 to −3 by depth (§2.2)."""
    width: int
    """Units of a layer: 50 (linear). Channels in the first stage, doubled in each later one: 16 (conv)."""
    activation: Literal["relu", "tanh"]
    """Activation of the layers: "relu"."""
    num_classes: int
    """Size of the output: 10."""
    in_features: int
    """Size of the flattened input of the linear form: 784."""
    in_channels: int
    """Channels of the input of the convolutional form: 3."""


@dataclass(frozen=True)
class Design:
    """The values of all options of one network."""

    form: Literal["linear", "conv"]
    layers: tuple[int, ...]  # highway layers in each stage, after the plain layer that changes the size
    width: int
    in_size: int  # features or channels of the input
    skip: bool = True
    gate_bias: float = -2.0
    activation: Literal["relu", "tanh"] = "relu"
    num_classes: int = 10

    def __post_init__(self) -> None:
        in_name = "in_features" if self.form == "linear" else "in_channels"
        require_positive(width=self.width, num_classes=self.num_classes, **{in_name: self.in_size})
        require_one_of("skip", self.skip, (True, False))
        require_one_of("activation", self.activation, tuple(ACTIVATIONS))

    def weights(self, in_size: int, out_size: int, stride: int = 1) -> nn.Module:
        """A weight layer: linear, or a 3×3 convolution that keeps the resolution or halves it."""
        if self.form == "linear":
            return nn.Linear(in_size, out_size)
        return nn.Conv2d(in_size, out_size, 3, stride, padding=1)

    def plain(self, in_size: int, out_size: int, stride: int = 1) -> nn.Sequential:
        """H(x), a weight layer and its activation."""
        return nn.Sequential(self.weights(in_size, out_size, stride), ACTIVATIONS[self.activation]())


def highway_layer(size: int, design: Design) -> SkipConnection:
    """T(x) · H(x) + (1 − T(x)) · x, arXiv:1505.00387, eq. 3; H(x) without the shortcut."""
    branch = design.plain(size, size)
    if not design.skip:
        return SkipConnection(branch, shortcut=None)
    return SkipConnection(branch, identity, Gated(design.weights(size, size)))


class Highway(nn.Module):
    """Stages of a plain layer and highway layers, and a linear layer: (N, ...) or (N, C, H, W) gives (N, classes)."""

    def __init__(self, design: Design) -> None:
        super().__init__()
        linear = design.form == "linear"
        self.example_input_shape = (design.in_size,) if linear else (design.in_size, 32, 32)
        self.pool = nn.Identity() if linear else nn.AdaptiveAvgPool2d(1)
        self.flatten_first = linear
        self.layers = nn.Sequential()
        size = design.in_size
        for stage, count in enumerate(design.layers):
            wider = design.width * 2**stage
            self.layers.append(design.plain(size, wider, stride=1 if stage == 0 else 2))
            for _ in range(count):
                self.layers.append(highway_layer(wider, design))
            size = wider
        self.head = nn.Linear(size, design.num_classes)
        self._initialize(design)

    def _initialize(self, design: Design) -> None:
        """Layers before ReLUs as in He et al. 2015, arXiv:1502.01852; others as in Glorot and Bengio 2010, AISTATS."""
        for name, module in self.named_modules():
            if not isinstance(module, (nn.Linear, nn.Conv2d)):
                continue
            gate = name.endswith("combine.gate")
            if design.activation == "relu" and not gate and module is not self.head:
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            else:
                nn.init.xavier_normal_(module.weight)
            assert module.bias is not None
            nn.init.constant_(module.bias, design.gate_bias if gate else 0.0)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1) if self.flatten_first else x
        return self.head(self.pool(self.layers(x)).flatten(1))


def highway(depth: int, form: Literal["linear", "conv"] = "linear", **options: Unpack[Options]) -> Highway:
    """A highway network of `depth` weight layers, gates not counted.

    `form="linear"`: arXiv:1505.00387, §3.1: a plain layer, depth − 2 highway layers, a linear layer. The input is
    flattened.
    `form="conv"`: 3×3 convolutions in three stages, each of which starts with a plain layer (stride 2 in later stages);
    then average pool and linear layer. Input (N, 3, 32, 32).
    """
    if form not in ("linear", "conv"):
        raise UsageError(f"form={form!r}: choose 'linear' or 'conv'")
    other = "in_channels" if form == "linear" else "in_features"
    taken = set(Options.__annotations__) - {other}
    choices = known_options(options, taken, f"the {form} form")
    require_whole(depth=depth)
    stages = 1 if form == "linear" else 3
    gated = depth - stages - 1
    if gated < 1:
        raise UsageError(f"depth={depth}: the {form} form has at least {stages + 2} weight layers")
    layers = tuple((gated + stages - 1 - i) // stages for i in range(stages))  # earlier stages have one more
    published, size = (50, 784) if form == "linear" else (16, 3)
    in_size = choices.pop("in_features" if form == "linear" else "in_channels", size)
    return Highway(Design(form, layers, choices.pop("width", published), in_size, **choices))
