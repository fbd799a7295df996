from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skiplab import models
from skiplab.errors import UsageError
from skiplab.models import Highway, highway


def parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def by_hand(net: Highway, x: Tensor, plain: set[int], conv: bool, activation: Any, skip: bool) -> Tensor:
    """y = H(x) · T(x) + x · (1 − T(x)) from the parameters alone; `plain` are the layers that change the size."""
    p = net.state_dict()

    def apply(x: Tensor, name: str, stride: int = 1) -> Tensor:
        weight, bias = p[f"layers.{name}.weight"], p[f"layers.{name}.bias"]
        return F.conv2d(x, weight, bias, stride, padding=1) if conv else x @ weight.T + bias

    x = x if conv else x.reshape(len(x), -1)
    for i in range(len(net.layers)):
        if i in plain:
            x = activation(apply(x, f"{i}.0", stride=2 if i > 0 else 1))
            continue
        h = activation(apply(x, f"{i}.branch.0"))
        t = 1 / (1 + torch.exp(-apply(x, f"{i}.combine.gate"))) if skip else 1
        x = h * t + x * (1 - t)
    x = x.mean((2, 3)) if conv else x
    return x @ p["head.weight"].T + p["head.bias"]


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_the_linear_form_by_hand(activation: Any, skip: bool) -> None:
    net = highway(7, width=5, in_features=12, activation=activation, skip=skip, num_classes=3).double()
    x = torch.randn(4, 3, 2, 2, dtype=torch.double)  # flattened
    torch.testing.assert_close(net(x), by_hand(net, x, {0}, False, getattr(torch, activation), skip))


@pytest.mark.parametrize("skip", [True, False])
def test_the_convolutional_form_by_hand(skip: bool) -> None:
    """Depth 9: three plain layers with 2, 2 and 1 highway layers behind them, and the linear one."""
    net = highway(9, "conv", width=3, in_channels=2, skip=skip).double()
    x = torch.randn(2, 2, 11, 8, dtype=torch.double)
    torch.testing.assert_close(net(x), by_hand(net, x, {0, 3, 6}, True, torch.relu, skip))


@pytest.mark.parametrize("form", ["linear", "conv"])
@pytest.mark.parametrize("depth", [5, 6, 7, 20])
def test_depth_counts_weight_layers_without_gates(form: Any, depth: int) -> None:
    net = highway(depth, form, width=2)
    kinds = (nn.Linear, nn.Conv2d)
    layers = [name for name, module in net.named_modules() if isinstance(module, kinds) and "gate" not in name]
    assert len(layers) == depth
    assert net.example_input_shape == ((784,) if form == "linear" else (3, 32, 32))
    assert net(torch.randn(2, *net.example_input_shape)).shape == (2, 10)


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("depth", [3, 10])
def test_parameter_count(depth: int, skip: bool) -> None:
    linear = highway(depth, width=6, in_features=9, num_classes=4, skip=skip)
    assert parameters(linear) == (9 + 1) * 6 + (depth - 2) * (6 + 1) * 6 * (2 if skip else 1) + (6 + 1) * 4
    conv = highway(3 * depth, "conv", width=2, skip=skip)  # stages of depth − 1, depth − 1 and depth − 2 layers behind
    assert depth - 1 + depth - 1 + depth - 2 + 4 == 3 * depth
    layers = sum(n * (9 * c * c + c) for n, c in ((depth - 1, 2), (depth - 1, 4), (depth - 2, 8)))
    changes = sum(9 * a * b + b for a, b in ((3, 2), (2, 4), (4, 8)))
    assert parameters(conv) == changes + layers * (2 if skip else 1) + 9 * 10


def test_widths_that_the_docstring_calls_equal() -> None:
    """A layer more, of width 50 with gates and of width 71 without: 5,100 and 5,112 parameters."""
    gated, plain = ([highway(d, width=w, skip=s) for d in (10, 11)] for w, s in ((50, True), (71, False)))
    assert [parameters(b) - parameters(a) for a, b in (gated, plain)] == [5100, 5112]


@pytest.mark.parametrize("bias", [-1.0, -3.0])
@pytest.mark.parametrize("form", ["linear", "conv"])
def test_gates_start_at_the_bias_and_all_else_at_zero(form: Any, bias: float) -> None:
    net = highway(12, form, gate_bias=bias, width=4)
    starts = {name: value for name, value in net.named_parameters() if name.endswith("bias")}
    gates = {name for name in starts if "gate" in name}
    assert len(gates) == (10 if form == "linear" else 8)
    assert all(torch.all(value == (bias if name in gates else 0)) for name, value in starts.items())


def test_closed_gates_hand_the_input_on_and_open_ones_make_the_plain_twin() -> None:
    x = torch.randn(3, 784)
    closed, opened, twin = highway(9, gate_bias=-200.0), highway(9, gate_bias=200.0), highway(9, skip=False)
    carried = closed.layers[0](x)
    assert torch.equal(closed.layers(x), carried)
    twin.load_state_dict({name: value for name, value in opened.state_dict().items() if "gate" not in name})
    torch.testing.assert_close(opened(x), twin(x))


def test_initial_weights() -> None:
    relu, tanh = highway(3, width=400), highway(3, width=400, activation="tanh")
    deviations = [net.layers[1].branch[0].weight.std().item() for net in (relu, tanh)]  # type: ignore[union-attr]
    assert deviations == pytest.approx([(2 / 400) ** 0.5, (2 / 800) ** 0.5], rel=0.02)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((2,), {}, "depth=2: the linear form has at least 3"),
        ((4, "conv"), {}, "depth=4: the conv form has at least 5"),
        ((5, "round"), {}, "'linear' or 'conv'"),
        ((5,), {"in_channels": 1}, r"\['in_channels'\]: the linear form takes .*'in_features'"),
        ((5, "conv"), {"in_features": 1}, r"\['in_features'\]: the conv form takes .*'in_channels'"),
        ((5, "conv"), {"in_channels": 0}, "in_channels=0"),
        ((5,), {"width": 0}, "width=0"),
        ((5,), {"activation": "gelu"}, r"activation='gelu'.*'relu', 'tanh'"),
        ((5,), {"skip": None}, "skip=None"),
    ],
)
def test_requests_that_make_no_sense(arguments: Any, options: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        models.highway(*arguments, **options)
