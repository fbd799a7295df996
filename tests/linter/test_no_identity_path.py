from typing import Any

import torch
from torch import Tensor, nn

from linted import linted
from networks import Net, Transformer, around, heavy
from skiplab.models import resnet

RULE = "no-identity-path"
IMAGE = torch.randn(2, 3, 16, 16)


def on_every_path(model: nn.Module, *inputs: Tensor) -> list[tuple[str, str]]:
    findings = linted(model, *inputs, identity_path=True)
    assert {finding.rule for finding in findings} <= {RULE}
    return [(finding.path, finding.what.split(", ")[1]) for finding in findings]


def test_nothing_is_said_unless_asked_for() -> None:
    assert list(linted(resnet(20, width=4), IMAGE)) == []


def test_post_activation_has_a_relu_after_each_merge_but_the_last() -> None:
    found = on_every_path(resnet(20, width=4), IMAGE)
    assert len(found) == 9 - 1
    assert {what for _, what in found} == {"an activation"}
    assert found[0][0].startswith("layer1.0")


def test_pre_activation_has_none() -> None:
    assert on_every_path(resnet(20, width=4, placement="pre"), IMAGE) == []


def test_the_source_is_the_users_line() -> None:
    sources = {finding.source for finding in linted(resnet(20, width=4), IMAGE, identity_path=True)}
    assert all("skiplab/models/" in str(source) for source in sources)


def test_post_norm_has_a_norm_between_its_sums_and_pre_norm_none() -> None:
    x = torch.randn(2, 5, 8)
    assert on_every_path(Transformer("post"), x) == [("norm1", "a norm over the sample")]
    assert on_every_path(Transformer("pre"), x) == []


def test_kinds_that_are_told() -> None:
    def between(module: nn.Module, x: Tensor) -> list[tuple[str, str]]:
        net = Net(lambda net, x: (y := net.m(x + net.f(x))) + net.g(y), m=module, f=heavy(), g=heavy())
        return on_every_path(net, x)

    x = torch.randn(2, 3, 8)
    assert between(nn.BatchNorm1d(3), x) == [("m", "a batch norm")]
    assert between(nn.MaxPool1d(3, 1, 1), x) == [("m", "a maximum")]
    assert between(Net(lambda net, x: x * x.mean(-1, keepdim=True).sigmoid()), x)[-1] == (
        "m",
        "a product of data (a gate",
    )
    assert between(nn.Linear(8, 8), x) == []  # a projection keeps the path linear
    assert between(nn.Dropout(), x) == []


def test_what_is_before_the_first_fork_and_after_the_last_merge_is_left_alone() -> None:
    assert on_every_path(nn.Sequential(nn.ReLU(), around(lambda x, f: x + f), nn.ReLU())) == []


def test_a_way_past_a_relu_suffices() -> None:
    """The inner block ends in an activation, which the outer skip avoids."""
    outer = Net(lambda net, x: x + net.out(torch.relu((y := net.a(x)) + net.b(y))), a=heavy(), b=heavy(), out=heavy())
    assert on_every_path(outer) == []


def test_streams_that_do_not_meet_are_looked_at_one_by_one() -> None:
    def two(net: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        y = x.detach() * 2
        return net.a(net.first(x)), net.b(net.second(y))

    def stage() -> nn.Sequential:
        return nn.Sequential(around(lambda x, f: x + f), nn.ReLU(), around(lambda x, f: x + f))

    net = Net(two, first=heavy(), second=heavy(), a=stage(), b=stage())
    assert on_every_path(net) == [("a.1", "an activation"), ("b.1", "an activation")]


def test_no_skip_is_a_note() -> None:
    findings = linted(heavy(), identity_path=True)
    assert list(findings) == []
    assert any(note.startswith(RULE) for note in findings.notes)
