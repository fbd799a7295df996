from typing import Any

import pytest
import torch
from torch import Tensor, nn

from case import mean
from linted import linted
from networks import Net, Transformer, TwoInputs, around, heavy, linear

RULE = "broadcast-merge"
SEQUENCE = torch.randn(3, 5, 8)


def narrow() -> nn.Sequential:
    return nn.Sequential(linear(1), nn.Tanh(), linear(8, 1))


BROADCAST = {
    # (N,) beside (N, 1) is (N, N): the classic
    "grid": (
        Net(lambda net, x: net.f(x) + net.g(x)[:, 0], f=linear(8, 1), g=heavy()),
        Net(lambda net, x: net.f(x) + net.g(x)[:, :1], f=linear(8, 1), g=heavy()),
    ),
    "shortcut_squeezed": (
        Net(
            lambda net, x: (y := net.a(x)).squeeze(1) + net.f(y),
            a=linear(8, 1),
            f=narrow(),
        ),
        Net(
            lambda net, x: (y := net.a(x)) + net.f(y),
            a=linear(8, 1),
            f=narrow(),
        ),
    ),
    "shortcut_averaged": (around(lambda x, f: mean(x) + f), around(lambda x, f: x + f)),
    "first_sample_for_all": (around(lambda x, f: x[:1] + f), around(lambda x, f: x + f)),
}


@pytest.mark.parametrize("name", BROADCAST)
def test_each_and_its_mended_twin(name: str) -> None:
    wrong, mended = BROADCAST[name]
    assert [finding.rule for finding in linted(wrong)] == [RULE]
    assert list(linted(mended)) == []


def test_branch_of_lower_rank() -> None:
    """One sample's branch is added to all."""
    assert [f.rule for f in linted(around(lambda x, f: x + f[0]), SEQUENCE)] == [RULE]
    assert list(linted(around(lambda x, f: x + f), SEQUENCE)) == []


def test_shortcut_of_lower_rank() -> None:
    """All samples' mean beside each one's branch, unless each one's own value is there too."""
    assert [f.rule for f in linted(around(lambda x, f: x.mean(0) + f))] == [RULE]
    assert list(linted(around(lambda x, f: x.mean(0) + f + x))) == []


def test_the_finding_names_the_shapes() -> None:
    assert "shapes N and Nx1 broadcast to NxN" in linted(BROADCAST["grid"][0])[0].what


def test_inside_a_chain_of_sums() -> None:
    net = Net(lambda net, x: (net.f(x)[:, 0] + net.g(x)) + net.h(x), f=heavy(), g=linear(8, 1), h=linear(8, 1))
    assert [finding.rule for finding in linted(net)] == [RULE]


def context(net: Any, x: Tensor) -> Tensor:
    """GCNet: one vector, computed from all positions, is added to each."""
    return x + net.f(x.mean(1, keepdim=True))


CLEAN = {
    "context": Net(context, f=heavy()),
    "centred": Net(lambda net, x: net.f(x - x.mean(1, keepdim=True)), f=heavy()),
    "centred_over_the_batch": Net(lambda net, x: net.f(x - x.mean(0)), f=heavy()),
    "number": Net(lambda net, x: x + net.f(x).mean(), f=heavy()),
    "pairs": Net(lambda net, x: net.f(x)[:, :, None] + net.g(x)[:, None], f=heavy(), g=heavy()),
    "global_beside_local": Net(lambda net, x: x + mean(x) + net.f(x), f=heavy()),
    "attention": Transformer("pre"),
}


@pytest.mark.parametrize("name", CLEAN)
def test_no_false_alarm(name: str) -> None:
    assert list(linted(CLEAN[name], SEQUENCE)) == []


def test_masks_positions_and_conditions() -> None:
    masked = TwoInputs(lambda net, x, mask: net.b(x, mask), b=Transformer("pre"))
    assert list(linted(masked, torch.randn(3, 5, 8), torch.randn(3, 1, 1, 5))) == []
    positions = TwoInputs(lambda net, x, p: net.a(x) + net.b(p), a=linear(), b=nn.Embedding(9, 8))
    assert list(linted(positions, SEQUENCE, torch.arange(5))) == []

    def conditioned(net: Any, x: Tensor, time: Tensor) -> Tensor:
        for block in (net.a, net.b):
            x = block(x) + net.t(time)[:, None]
        return x

    net = TwoInputs(conditioned, a=heavy(), b=heavy(), t=linear())
    assert list(linted(net, SEQUENCE, torch.randn(3, 8))) == []


def test_one_condition_for_the_whole_batch() -> None:
    def conditioned(net: Any, x: Tensor, time: Tensor) -> Tensor:
        for block in (net.a, net.b):
            x = block(x) + net.t(time)
        return x

    net = TwoInputs(conditioned, a=heavy(), b=heavy(), t=linear())
    assert list(linted(net, SEQUENCE, torch.randn(8))) == []


def test_a_condition_that_each_block_adds_as_it_is() -> None:
    def conditioned(net: Any, x: Tensor, style: Tensor) -> Tensor:
        for block in (net.a, net.b):
            x = block(x) + style
        return x

    assert list(linted(TwoInputs(conditioned, a=heavy(), b=heavy()), SEQUENCE, torch.randn(3, 1, 8))) == []
