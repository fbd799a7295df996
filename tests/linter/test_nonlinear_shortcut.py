from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from case import mean
from linted import linted
from networks import Fusion, Net, around, conv, heavy, linear

RULE = "nonlinear-shortcut"
IMAGE = torch.randn(2, 4, 8, 8)


def deep() -> nn.Sequential:
    return nn.Sequential(heavy(), nn.ReLU(), linear())


SPOILED = {
    "activation": (around(lambda x, f: F.relu(x) + f), around(lambda x, f: x + f)),
    "norm": (around(lambda x, f: F.layer_norm(x, (8,)) + f), around(lambda x, f: F.layer_norm(x + f, (8,)))),
    "sub": (around(lambda x, f: f - torch.tanh(x)), around(lambda x, f: torch.tanh(f) - x)),
    "after_projection": (
        Net(lambda net, x: F.relu(net.p(x)) + net.f(x), p=linear(), f=deep()),
        Net(lambda net, x: net.p(x) + net.f(x), p=linear(), f=deep()),
    ),
}


@pytest.mark.parametrize("name", SPOILED)
def test_each_and_its_mended_twin(name: str) -> None:
    spoiled, mended = SPOILED[name]
    assert [finding.rule for finding in linted(spoiled)] == [RULE]
    assert list(linted(mended)) == []


def test_max_pool_and_average() -> None:
    def block(pool: object) -> nn.Module:
        return Net(lambda net, x: pool(x, 2) + net.f(x), f=nn.Sequential(conv(stride=2), conv()))  # type: ignore[operator]

    findings = linted(block(F.max_pool2d), IMAGE)
    assert [finding.rule for finding in findings] == [RULE]
    assert "average" in findings[0].fix
    assert list(linted(block(F.avg_pool2d), IMAGE)) == []


def test_what_stands_there_is_named() -> None:
    finding = linted(Net(lambda net, x: net.act(x) + net.f(x), act=nn.ReLU(), f=heavy()))[0]
    assert finding.what.startswith("`act` (relu)")


def same(net: Any, x: Tensor) -> Tensor:
    x = F.relu(x)
    return x + net.f(x)


CLEAN = {
    "the_activation_is_the_branchs_too": Net(same, f=heavy()),
    "one_layer_beside_two": Net(lambda net, x: F.relu(net.p(x)) + net.f(x), p=linear(), f=heavy()),
    "before_the_projection": Net(lambda net, x: net.p(F.relu(x)) + net.f(x), p=linear(), f=deep()),
    "foldable_without_it": Net(lambda net, x: F.relu(x) + net.p(x), p=linear()),
    "nothing_heavier": Net(lambda net, x: F.relu(x) + torch.tanh(x)),
    "weights_on_both": Net(lambda net, x: net.f(F.relu(x)) + net.g(x), f=heavy(), g=heavy()),
    "one_number_for_all": Net(lambda net, x: F.relu(mean(x)) + net.f(x), f=heavy()),
    "another_shortcut": Net(lambda net, x: x + F.relu(x) + net.f(x), f=heavy()),
    "gate": Net(lambda net, x: x * torch.sigmoid(net.f(x)) + torch.sigmoid(net.f(x)), f=heavy()),
}


@pytest.mark.parametrize("name", CLEAN)
def test_no_false_alarm(name: str) -> None:
    assert list(linted(CLEAN[name])) == []


def test_streams_of_other_resolutions() -> None:
    assert list(linted(Fusion(), IMAGE)) == []


def test_a_pyramids_lateral_layer_with_an_activation() -> None:
    """The layer itself is the light way to the sum, from a part of the network that is elsewhere."""
    down = nn.Sequential(conv(stride=2), conv(), conv())

    def function(net: Any, x: Tensor) -> Tensor:
        high = net.stem(x)
        return net.lateral(high) + F.interpolate(net.down(high), scale_factor=2.0)

    assert list(linted(Net(function, stem=conv(), lateral=conv(kernel=1), down=down), IMAGE)) == []


def test_conditions_that_each_block_reads_through_its_own_layer() -> None:
    """A diffusion network's time embedding: silu and a layer, added to every position."""

    def function(net: Any, x: Tensor) -> Tensor:
        time = net.time(x.mean((2, 3)))
        for block, layer in ((net.a, net.ta), (net.b, net.tb)):
            x = block(x) + layer(F.silu(time))[:, :, None, None]
        return x

    net = Net(function, time=linear(4, 4), a=conv(), b=conv(), ta=linear(4, 4), tb=linear(4, 4))
    assert list(linted(net, IMAGE)) == []
