"""Stochastic depth as torchvision, timm and transformers write it."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

import skiplab
from linted import linted
from networks import Net, heavy, linear
from skiplab.linter.drop_paths import drop_paths

LONELY, SHARED = "drop-path-without-shortcut", "shared-drop-path"


def timm_path() -> nn.Module:
    from timm.layers.drop import DropPath

    return DropPath(0.2)


def transformers_path() -> nn.Module:
    from transformers.models.segformer.modeling_segformer import SegformerDropPath

    return SegformerDropPath(0.2)


class OneForAll(nn.Module):
    """LayerDrop: one draw for the whole batch."""

    def forward(self, x: Tensor) -> Tensor:
        return x * (torch.rand(()) < 0.8).to(x.dtype)


PATHS = [
    timm_path,
    transformers_path,
    lambda: StochasticDepth(0.2, "row"),
    lambda: StochasticDepth(0.2, "batch"),
    OneForAll,
]


@pytest.mark.parametrize("path", PATHS)
def test_forms_of_drop_path(path: object) -> None:
    """One on the branch is right, one on the whole way and one on the shortcut are not."""

    def rules(function: object) -> list[str]:
        return [f.rule for f in linted(Net(function, f=heavy(), p=path(), q=path()), train=True)]  # type: ignore[operator, arg-type]

    assert rules(lambda net, x: x + net.p(net.f(x))) == []
    assert rules(lambda net, x: net.p(net.f(x))) == [LONELY]
    assert rules(lambda net, x: net.p(x) + net.f(x)) == [LONELY]
    assert rules(lambda net, x: net.p(x + net.f(x))) == [LONELY]
    assert rules(lambda net, x: (y := x + net.p(net.f(x))) + net.q(net.f(y))) == []
    assert rules(lambda net, x: (y := x + net.p(net.f(x))) + net.p(net.f(y))) == [SHARED]


def test_where_it_stands_is_told() -> None:
    on_shortcut = linted(Net(lambda net, x: net.p(x) + net.f(x), f=heavy(), p=timm_path()), train=True)
    assert on_shortcut[0].what == "drop-path is on a shortcut instead of the branch"
    before = linted(
        Net(lambda net, x: (y := net.p(net.f(x))) + net.g(y), f=heavy(), g=linear(), p=timm_path()), train=True
    )
    assert [finding.what for finding in before] == ["drop-path is at a place without a shortcut"]


def test_drop_path_is_in_the_training_graph_alone() -> None:
    model = Net(lambda net, x: net.p(net.f(x)), f=heavy(), p=timm_path())
    inference, training = linted(model), linted(model, train=True)
    assert list(inference) == []
    assert any("train=True" in note for note in inference.notes)
    assert [f.rule for f in inference + training] == [LONELY]
    assert (inference + training).notes == ()


def test_the_source_is_the_line_that_asks_for_it() -> None:
    class Lonely(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.f, self.p = heavy(), timm_path()

        def forward(self, x: Tensor) -> Tensor:
            return self.p(self.f(x))

    finding = linted(nn.Sequential(Lonely()), train=True)[0]
    assert finding.source == f"{__file__}:{Lonely.forward.__code__.co_firstlineno + 1}"
    assert finding.path == "0.p"


def test_the_source_of_a_function_is_the_line_that_calls_it() -> None:
    from timm.layers.drop import drop_path

    class Lonely(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.f = heavy()

        def forward(self, x: Tensor) -> Tensor:
            return drop_path(self.f(x), 0.2, True)

    finding = linted(nn.Sequential(Lonely()), train=True)[0]
    assert finding.source == f"{__file__}:{Lonely.forward.__code__.co_firstlineno + 1}"


def test_what_is_no_drop_path() -> None:
    def mask(net: Any, x: Tensor) -> Tensor:
        element = torch.rand_like(x) < 0.5  # dropout written out
        channel = x.new_empty(x.shape[0], 1, x.shape[2]).bernoulli_(0.5)
        feature = torch.rand(1, 1, x.shape[2]) < 0.5
        noise = x + torch.randn_like(x)
        return (x * element + net.d(x) * channel + x * feature) * net.scale(x).mean() + noise

    net = Net(mask, d=nn.Dropout(0.5), scale=linear())
    assert drop_paths(skiplab.capture(net, (torch.randn(3, 5, 8),), train=True)) == {}


def test_scaled_and_viewed_branches_end_at_their_merge() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.f, self.p, self.gamma = heavy(), timm_path(), nn.Parameter(torch.ones(8))

        def forward(self, x: Tensor) -> Tensor:
            return x + (self.gamma * self.p(self.f(x))).view(-1, 8)

    assert list(linted(Scaled(), train=True)) == []


def test_columns_that_are_joined_need_no_shortcut() -> None:
    """FractalNet's join: when one column is dropped the other remains."""
    net = Net(lambda net, x: net.p(net.f(x)) + net.q(net.g(x)), f=heavy(), g=heavy(), p=timm_path(), q=timm_path())
    assert list(linted(net, train=True)) == []


def test_a_block_called_twice_shares_nothing() -> None:
    block = Net(lambda net, x: x + net.p(net.f(x)), f=heavy(), p=timm_path())
    assert list(linted(Net(lambda net, x: net.b(net.b(x)), b=block), train=True)) == []


def test_functions_are_no_shared_objects() -> None:
    from timm.layers.drop import drop_path

    def two(net: Any, x: Tensor) -> Tensor:
        x = x + drop_path(net.f(x), 0.2, True)
        return x + drop_path(net.g(x), 0.2, True)

    assert list(linted(nn.Sequential(Net(two, f=heavy(), g=heavy())), train=True)) == []
