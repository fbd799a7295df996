"""Variants of the residual network, against the papers' figures written out from the parameters alone."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skiplab.models import DropPath, ResNet, resnet
from skiplab.models.residual import ResidualBlock

Layer = Callable[[Tensor], Tensor]
# He et al. 2016, Identity Mappings, Fig. 4: a block of convolutions c, d, norms m, n, and how it joins `j`.
FIGURE_4: dict[str, Callable[..., Tensor]] = {
    "post": lambda x, c, m, d, n, j: j(x, n(d(m(c(x)).relu()))).relu(),
    "bn-after": lambda x, c, m, d, n, j: n(j(x, d(m(c(x)).relu()))).relu(),
    "relu-before": lambda x, c, m, d, n, j: j(x, n(d(m(c(x)).relu())).relu()),
    "relu-only": lambda x, c, m, d, n, j: j(x, n(d(m(c(x.relu())).relu()))),
    "pre": lambda x, c, m, d, n, j: j(x, d(n(c(m(x).relu())).relu())),
}
# Its Fig. 2, of the shortcut s, the branch f, a gate's pre-activation g and a learned number a.
FIGURE_2: dict[str, Callable[..., Tensor]] = {
    "add": lambda s, f, g, a: s + f,
    "half": lambda s, f, g, a: s / 2 + f,
    "average": lambda s, f, g, a: (s + f) / 2,
    "gate": lambda s, f, g, a: s * torch.sigmoid(-g) + f * torch.sigmoid(g),
    "shortcut-gate": lambda s, f, g, a: s * torch.sigmoid(-g) + f,
    "shortcut-dropout": lambda s, f, g, a: s + f,  # in evaluation
    "rezero": lambda s, f, g, a: s + a * f,
}


def randomised(net: ResNet) -> ResNet:
    """In double precision, with values everywhere that a mistake would show up with."""
    for name, tensor in net.double().state_dict().items():
        if name.endswith("running_var") or ("bn" in name and name.endswith("weight")):
            tensor.uniform_(0.5, 1.5)
        elif tensor.is_floating_point() and tensor.ndim < 2:
            tensor.normal_(0, 0.5)
    return net.eval()


def by_hand(net: ResNet, x: Tensor, placement: str, combine: str, normed: bool = True) -> Tensor:
    p = net.state_dict()

    def norm(name: str) -> Layer:
        def apply(x: Tensor) -> Tensor:
            mean, var, weight, bias = (
                p[f"{name}.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
            )
            return (x - mean) / torch.sqrt(var + 1e-5) * weight + bias

        return apply if normed else lambda x: x

    def conv(name: str, stride: int = 1) -> Layer:
        return lambda x: F.conv2d(
            x, p[f"{name}.weight"], p.get(f"{name}.bias"), stride, p[f"{name}.weight"].shape[-1] // 2
        )

    def block(name: str, x: Tensor, stride: int) -> Tensor:
        def join(x: Tensor, f: Tensor) -> Tensor:
            s = F.pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, 0, f.shape[1] - x.shape[1]))
            gate = conv(f"{name}.combine.gate")(s) if "gate" in combine else None
            return FIGURE_2[combine](s, f, gate, p.get(f"{name}.combine.alpha"))

        first, second = conv(f"{name}.conv1", stride), conv(f"{name}.conv2")
        return FIGURE_4[placement](x, first, norm(f"{name}.bn1"), second, norm(f"{name}.bn2"), join)

    x = conv("conv1")(x)
    x = x if placement == "pre" else norm("bn1")(x)
    x = x if placement in ("pre", "relu-only") else x.relu()
    for stage in (1, 2, 3):
        for i in range(len(net.get_submodule(f"layer{stage}"))):  # type: ignore[arg-type]
            x = block(f"layer{stage}.{i}", x, 2 if stage > 1 and i == 0 else 1)
    x = norm("bn_last")(x) if placement == "pre" else x
    x = x.relu() if placement in ("pre", "relu-only") else x
    return x.mean(dim=(2, 3)) @ p["fc.weight"].T + p["fc.bias"]


@pytest.mark.parametrize("normed", [True, False])
@pytest.mark.parametrize(
    ("placement", "combine"), [(p, "add") for p in FIGURE_4] + [(p, c) for p in ("post", "pre") for c in FIGURE_2]
)
def test_equals_the_papers_formulas(placement: Any, combine: Any, normed: bool) -> None:
    net = randomised(resnet(14, placement=placement, combine=combine, width=4, norm="batch" if normed else None))
    x = torch.randn(2, 3, 9, 10, dtype=torch.double)
    with torch.no_grad():
        expected = by_hand(net, x, placement, combine, normed)
        torch.testing.assert_close(net(x), expected, rtol=1e-9, atol=1e-9)


def parameters(**options: Any) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in resnet(20, width=4, **options).parameters())


PLAIN = parameters(skip=None)  # a closed form of which tests/models/test_resnet.py has
CHANNELS = [4] * 3 + [8] * 3 + [16] * 3  # of the blocks


@pytest.mark.parametrize(
    ("options", "more"),
    [
        *(({"placement": placement}, 0) for placement in FIGURE_4),
        *(({"combine": combine}, 0) for combine in ("half", "average", "shortcut-dropout")),
        ({"combine": "gate"}, sum(c * c + c for c in CHANNELS)),
        ({"combine": "shortcut-gate"}, sum(c * c + c for c in CHANNELS)),
        ({"combine": "rezero"}, len(CHANNELS)),
        ({"drop_path": 0.5}, 0),
        ({"dropout": 0.3}, 0),
        ({"placement": "pre", "last": "norm"}, 0),
        ({"placement": "pre", "last": "none"}, -2 * 16),
        ({"placement": "relu-only", "last": "none"}, 0),
        ({"norm": None}, -2 * (4 + 2 * sum(CHANNELS))),
        # Fixup: a multiplier and a number before each of two convolutions and two ReLUs; one for the stem's ReLU
        # and one for the classifier
        ({"norm": "fixup"}, -2 * (4 + 2 * sum(CHANNELS)) + 5 * len(CHANNELS) + 2),
    ],
)
def test_parameters_more_than_those_of_the_plain_twin(options: Any, more: int) -> None:
    assert parameters(**options) - PLAIN == more


@pytest.mark.parametrize("last", ["activation", "norm", "none"])
@pytest.mark.parametrize("placement", ["relu-only", "pre"])
def test_what_stands_after_the_last_block(placement: Any, last: Any) -> None:
    net = randomised(resnet(8, placement=placement, last=last, width=4))
    kept: list[Tensor] = []
    net.get_submodule("layer3.0").register_forward_hook(lambda _, inputs, output: kept.append(output) or None)
    out = net(torch.randn(2, 3, 8, 8, dtype=torch.double))
    x = kept[0]
    if placement == "pre" and last != "none":
        assert net.bn_last is not None
        x = net.bn_last(x)
    x = x.relu() if last == "activation" else x
    torch.testing.assert_close(out, net.fc(x.mean(dim=(2, 3))))


@pytest.mark.parametrize("bias", [None, -3.0])
def test_gates_start_nearly_closed(bias: float | None) -> None:
    net = resnet(8, combine="gate") if bias is None else resnet(8, combine="shortcut-gate", gate_bias=bias)
    starts = {value for name, p in net.named_parameters() if name.endswith("gate.bias") for value in p.tolist()}
    assert starts == {-6.0 if bias is None else bias}


def blocks(net: ResNet) -> list[ResidualBlock]:
    return [module for module in net.modules() if isinstance(module, ResidualBlock)]


@pytest.mark.parametrize(
    "options",
    [
        {"combine": "rezero"},
        {"combine": "rezero", "norm": None, "placement": "pre"},  # SkipInit
        {"norm": "fixup"},
        {"norm": "fixup", "placement": "pre"},
        {"norm": "fixup", "placement": "relu-before", "span": 1},
    ],
)
def test_blocks_that_are_the_identity_before_training(options: Any) -> None:
    net = resnet(20, width=4, **options)
    for block in blocks(net):
        conv = block.get_submodule("conv1")
        assert isinstance(conv, nn.Conv2d)
        x = torch.rand(2, conv.in_channels, 6, 6)  # an original block gives nothing negative
        assert torch.equal(block(x), block.shortcut(x))
        assert hasattr(block, "downsample") or torch.equal(block(x), x)


def test_stochastic_depth_decays_linearly_and_is_the_residual_network_in_evaluation() -> None:
    net, residual = resnet(20, width=4, drop_path=0.5), resnet(20, width=4)
    residual.load_state_dict(net.state_dict(), strict=True)
    joins = [block.combine for block in blocks(net)]
    assert all(isinstance(join, DropPath) for join in joins)
    survival = [1 - join.rate for join in joins]  # type: ignore[attr-defined]
    assert survival == pytest.approx([1 - l / 9 * (1 - 0.5) for l in range(1, 10)])  # noqa: E741
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(net.eval()(x), residual.eval()(x))
    assert not torch.equal(net.train()(x), residual.train()(x))


def test_one_block_of_stochastic_depth_has_the_residual_blocks_expectation() -> None:
    net = resnet(8, width=4, drop_path=0.5, norm=None, placement="pre")
    block = blocks(net)[0]
    x = torch.randn(1, 4, 2, 2)
    wanted = block.branch(x)
    with torch.no_grad():
        drawn = block(x.expand(20_000, -1, -1, -1)) - x
    rate = 0.5 / 3
    error = wanted.abs() * (rate / (1 - rate) / len(drawn)) ** 0.5
    assert bool(((drawn.mean(dim=0) - wanted).abs() <= 5 * error + 1e-5).all())


def test_dropout_stands_before_the_last_convolution() -> None:
    """Zagoruyko and Komodakis 2016, Fig. 1d."""
    net = resnet(8, width=4, dropout=0.3, placement="pre")
    assert blocks(net)[0].steps.branch == ("bn1", "activation", "conv1", "bn2", "activation", "dropout", "conv2")
    reached: list[Tensor] = []
    blocks(net)[0].get_submodule("conv2").register_forward_pre_hook(lambda _, inputs: reached.append(inputs[0]))
    net(torch.randn(8, 3, 32, 32))
    zeros = (reached[0] == 0).float().mean().item()
    assert zeros == pytest.approx(0.5 + 0.5 * 0.3, abs=0.05)  # half by the ReLU


@pytest.mark.parametrize("options", [{"combine": "gate"}, {"combine": "rezero"}, {"norm": "fixup"}, {"drop_path": 0.2}])
def test_the_imagenet_form_has_them_too(options: Any) -> None:
    with torch.device("meta"):
        net = resnet(50, "imagenet", width=8, num_classes=5, **options)
        assert net(torch.empty(2, 3, 64, 64)).shape == (2, 5)
