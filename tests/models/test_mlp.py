from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from skiplab.errors import UsageError
from skiplab.models import MLP, mlp

ACTIVATIONS: dict[Any, Callable[[Tensor], Tensor]] = {
    "relu": lambda x: x.clamp(min=0),
    "gelu": lambda x: x * (1 + torch.erf(x / 2**0.5)) / 2,
    "tanh": lambda x: (torch.exp(2 * x) - 1) / (torch.exp(2 * x) + 1),
    None: lambda x: x,
}


def randomised(net: MLP) -> MLP:
    for name, tensor in net.double().state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
        elif tensor.is_floating_point():
            tensor.normal_(0, 0.5)
    return net.eval()


def by_hand(net: MLP, x: Tensor, placement: str, activation: Any, norm: str | None) -> Tensor:
    """Residual blocks of two layers, or plain ones (`placement="plain"`), from the parameters alone."""
    p, act = net.state_dict(), ACTIVATIONS[activation]

    def line(name: str, x: Tensor) -> Tensor:
        return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]

    def normed(name: str, x: Tensor) -> Tensor:
        if norm is None:
            return x
        if norm == "batch":
            mean, var = p[f"{name}.running_mean"], p[f"{name}.running_var"]
        else:
            mean, var = x.mean(-1, keepdim=True), x.var(-1, correction=0, keepdim=True)
        return (x - mean) / torch.sqrt(var + 1e-5) * p[f"{name}.weight"] + p[f"{name}.bias"]

    x = line("first", x)
    x = x if placement == "pre" else act(normed("norm_first", x))
    for i in range(len(net.blocks)):
        one, two = (lambda x, k=k, i=i: line(f"blocks.{i}.linear{k}", x) for k in (1, 2))
        norm1, norm2 = (lambda x, k=k, i=i: normed(f"blocks.{i}.norm{k}", x) for k in (1, 2))
        if placement == "pre":
            x = x + two(act(norm2(one(act(norm1(x))))))
        elif placement == "post":
            x = act(x + norm2(two(act(norm1(one(x))))))
        else:
            x = act(norm2(two(act(norm1(one(x))))))
    x = act(normed("norm_last", x)) if placement == "pre" else x
    return line("last", x)


@pytest.mark.parametrize("norm", [None, "batch", "layer"])
@pytest.mark.parametrize("activation", list(ACTIVATIONS))
@pytest.mark.parametrize("placement", ["plain", "post", "pre"])
def test_equals_the_formulas(placement: Any, activation: Any, norm: Any) -> None:
    options: Any = {"skip": None} if placement == "plain" else {"placement": placement}
    net = randomised(mlp(8, 6, activation=activation, norm=norm, in_features=12, out_features=4, **options))
    x = torch.randn(3, 12, dtype=torch.double)
    torch.testing.assert_close(net(x), by_hand(net, x, placement, activation, norm), rtol=1e-9, atol=1e-9)
    assert torch.equal(net(x.view(3, 1, 4, 3)), net(x))  # pictures are flattened


@pytest.mark.parametrize("norm", [None, "batch", "layer"])
@pytest.mark.parametrize(
    ("options", "more"),
    [
        ({"skip": None}, 0),
        ({}, 0),
        ({"placement": "pre"}, 0),
        ({"placement": "pre", "last": "norm"}, 0),
        ({"placement": "relu-only"}, 0),
        ({"activation": None}, 0),
        ({"drop_path": 0.5}, 0),
        ({"combine": "rezero"}, 4),
        ({"combine": "gate"}, 4 * (5 * 5 + 5)),
    ],
)
def test_parameters(norm: Any, options: Any, more: int) -> None:
    net = mlp(10, 5, norm=norm, in_features=7, out_features=3, **options)
    layers = 7 * 5 + 5 + 8 * (5 * 5 + 5) + 5 * 3 + 3
    assert sum(p.numel() for p in net.parameters()) == layers + (9 * 2 * 5 if norm else 0) + more


@pytest.mark.parametrize("placement", ["post", "pre"])
def test_the_plain_twin_shares_the_weights(placement: Any) -> None:
    plain, residual = (mlp(8, 5, skip=skip, placement=placement, norm="batch") for skip in (None, "identity"))
    plain.load_state_dict(residual.state_dict(), strict=True)


def test_shortcuts_without_the_last_activation_are_a_linear_map() -> None:
    """With silent branches the network is affine; with the last activation it is not."""
    for last, linear in (("none", True), ("activation", False)):
        net = mlp(12, 16, placement="pre", last=last)  # type: ignore[arg-type]
        for name, parameter in net.named_parameters():
            if name.endswith("linear2.weight"):
                nn.init.zeros_(parameter)
        x, y = torch.randn(2, 5, 64)
        with torch.no_grad():
            difference = net(x + y) - net(x) - net(y) + net(torch.zeros(5, 64))
        assert (difference.abs().max().item() < 1e-4) == linear


@pytest.mark.parametrize("skip", ["identity", None])
@pytest.mark.parametrize("norm", [None, "batch"])
def test_a_linear_network_is_affine(skip: Any, norm: Any) -> None:
    net = mlp(12, 16, activation=None, skip=skip, norm=norm).double().eval()
    x, y = torch.randn(2, 5, 64, dtype=torch.double)
    torch.testing.assert_close(net(x + y) - net(y), net(x) - net(torch.zeros_like(x)))


@pytest.mark.parametrize(("activation", "gain"), [("relu", 2), ("gelu", 2), ("tanh", 1), (None, 1)])
def test_initial_weights(activation: Any, gain: int) -> None:
    net = mlp(4, 200, activation=activation, in_features=300, combine="gate")
    for name, parameter in net.named_parameters():
        if name.endswith("weight"):
            wanted = (1 if name == "last.weight" or "gate" in name else gain) / parameter.shape[1]
            assert parameter.var().item() == pytest.approx(wanted, rel=0.1)
        else:
            assert set(parameter.tolist()) == {-6.0 if "gate" in name else 0.0}


def test_rezero_is_the_identity_before_training() -> None:
    net, x = mlp(20, 8, combine="rezero", placement="pre"), torch.randn(4, 64)
    assert torch.equal(net(x), net.last(F.relu(net.first(x))))


@given(st.integers(-2, 30), st.integers(1, 3))
def test_depth_and_span(depth: int, span: Any) -> None:
    with torch.device("meta"):
        if depth < 2 + span or (depth - 2) % span:
            with pytest.raises(
                UsageError, match=rf"depth={depth}.*span={span} has .* such as (\d+) or (\d+)"
            ) as raised:
                mlp(depth, 2, span=span)
            near = [int(word) for word in str(raised.value).partition("such as")[2].split() if word.isdigit()]
        else:
            near = [depth]
        for each in near:
            net = mlp(each, 2, span=span)
            assert sum(isinstance(module, nn.Linear) for module in net.modules()) == each


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"skip": "A"}, "skip='A'.*'identity', None"),
        ({"norm": "fixup"}, "norm='fixup'.*'batch', 'layer', None"),
        ({"activation": "sine"}, "activation='sine'.*'relu', 'gelu', 'tanh', None"),
        ({"span": 4}, "span=4"),
        ({"out_features": 0}, "out_features=0"),
        ({"combine": "rezero", "skip": None}, "exclude each other"),
        ({"width2": 3}, r"\['width2'\]: an MLP takes"),
    ],
)
def test_requests_that_make_no_sense(options: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        mlp(8, **options)
