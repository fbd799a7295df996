from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import skiplab
from linted import linted
from networks import Net, around, heavy, linear
from skiplab.linter import lint

RULE = "dead-branch"


class Scaled(nn.Module):
    """x + factor · F(x), with a factor that learns, is frozen, or is no parameter."""

    factor: Tensor

    def __init__(self, factor: str, value: float = 0.0) -> None:
        super().__init__()
        self.f, start = heavy(), torch.full((8,), value)
        if factor == "buffer":
            self.register_buffer("factor", start)
        else:
            self.factor = nn.Parameter(start, requires_grad=factor == "learned")

    def forward(self, x: Tensor) -> Tensor:
        return x + self.factor * self.f(x)


def zero_last(bias: bool = True) -> nn.Sequential:
    branch = heavy()
    for parameter in branch[2].parameters():
        nn.init.zeros_(parameter)
    return branch


def zero_norm() -> nn.Module:
    norm = nn.BatchNorm1d(8)
    nn.init.zeros_(norm.weight)
    return Net(lambda net, x: x + net.norm(net.f(x)), f=heavy(), norm=norm)


def both_zero(factor: str = "learned") -> nn.Module:
    block = Scaled(factor)
    block.f = zero_last()
    return block


DEAD = {
    "constant": lambda: around(lambda x, f: x + 0.0 * f),
    "buffer": lambda: Scaled("buffer"),
    "frozen": lambda: Scaled("frozen"),
    "two_in_series": both_zero,
    "masked": lambda: around(lambda x, f: x + f.masked_fill(torch.ones(8, dtype=torch.bool), 0)),
    "concatenated": lambda: around(lambda x, f: torch.cat((x, f * 0), -1)),
}
ALIVE = {
    "constant": lambda: around(lambda x, f: x + 0.1 * f),
    "buffer": lambda: Scaled("buffer", 0.1),
    "rezero": lambda: Scaled("learned"),
    "zero_last_layer": lambda: Net(lambda net, x: x + net.f(x), f=zero_last()),
    "zero_norm": zero_norm,
    "one_of_two": lambda: around(lambda x, f: x + f + 0.1 * f),
    "concatenated": lambda: around(lambda x, f: torch.cat((x, f), -1)),
}


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("name", DEAD)
def test_zero_for_good(name: str, train: bool) -> None:
    findings = linted(DEAD[name](), train=train)
    assert [finding.rule for finding in findings] == [RULE]
    assert "zero everywhere" in findings[0].what


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("name", ALIVE)
def test_what_learns_is_alive(name: str, train: bool) -> None:
    assert list(linted(ALIVE[name](), train=train)) == []


def test_one_of_several_branches() -> None:
    net = Net(lambda net, x: x + net.f(x) + 0 * net.g(x), f=heavy(), g=heavy())
    assert [finding.rule for finding in linted(net)] == [RULE]


def test_what_is_called_dead_does_not_change_in_training() -> None:
    """The claim itself: after a hundred steps the branch adds what it added before, where the living learns."""
    for build, moves in ((both_zero, False), (lambda: Scaled("learned"), True)):
        model = build()
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        x, y = torch.randn(16, 8), torch.randn(16, 8)
        for _ in range(100):
            optimizer.zero_grad()
            F.mse_loss(model(x), y).backward()
            optimizer.step()
        assert bool((model(x) - x).abs().max() > 0) is moves


def test_a_network_frozen_for_inference_is_judged_as_it_was() -> None:
    assert list(linted(Scaled("learned").requires_grad_(False))) == []
    assert [finding.rule for finding in linted(both_zero().requires_grad_(False))] == [RULE]


def test_detached() -> None:
    for function in (lambda x, f: x + f.detach(), lambda x, f: x + (2 * f).detach().view(-1, 8)):
        findings = linted(around(function))
        assert [finding.rule for finding in findings] == [RULE]
        assert "`detach`" in findings[0].what
    detached_input = Net(lambda net, x: x + net.f(x.detach()), f=heavy())
    half = Net(lambda net, x: x + net.f(x).detach() * net.g(x), f=heavy(), g=heavy())
    straight_through = around(lambda x, f: x + (f - x).detach())
    for model in (detached_input, half, straight_through):
        assert list(linted(model)) == []


def test_a_merge_that_nothing_reads() -> None:
    """`torch.export` drops code without effect, unless something such as a buffer's update depends on it."""

    class Unread(nn.Module):
        kept: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.f, self.last = heavy(), linear()
            self.register_buffer("kept", torch.zeros(8))

        def forward(self, x: Tensor) -> Tensor:
            y = x + self.f(x)
            self.kept.copy_(y.mean(0))
            return self.last(x)

    findings = linted(Unread())
    assert [(finding.rule, finding.what) for finding in findings] == [
        (RULE, "no output of the network depends on this merge")
    ]


def test_without_values_it_is_a_note() -> None:
    with torch.device("meta"):
        program = skiplab.capture(both_zero(), (torch.randn(3, 8),))
    findings = lint(program)
    assert list(findings) == []
    assert any(note.startswith("dead-branch: the network was captured without values") for note in findings.notes)


def test_detach_is_seen_without_values() -> None:
    with torch.device("meta"):
        program = skiplab.capture(around(lambda x, f: x + f.detach()), (torch.randn(3, 8),))
    assert [finding.rule for finding in lint(program)] == [RULE]


def test_a_narrow_branch_that_a_relu_ends() -> None:
    """Zero on one example by chance, which says nothing of others."""
    block = Net(lambda net, x: x + F.relu(net.f(x)), f=nn.Sequential(linear(8, 8), nn.Tanh(), linear(8, 8)))
    with torch.no_grad():
        block.f[2].bias.sub_(block.f(torch.zeros(8)) + 0.1)  # type: ignore[operator]
    assert list(lint(skiplab.capture(block, (torch.zeros(1, 8) + 1e-6,)))) == []


def test_a_fork_that_is_zero_tells_nothing() -> None:
    """Padding alone, whose embedding is zero: without biases the branch is zero too, and its gradients are."""
    branch = nn.Sequential(nn.Linear(8, 8, bias=False), nn.ReLU(), nn.Linear(8, 8, bias=False))
    net = Net(lambda net, x: (y := net.words(x)) + net.f(y), words=nn.Embedding(9, 8, padding_idx=0), f=branch)
    assert list(lint(skiplab.capture(net, (torch.zeros(2, 5, dtype=torch.long),)))) == []


def test_dropped_samples_are_not_dead() -> None:
    """One sample whose every branch is dropped in nearly all draws."""
    from timm.layers.drop import DropPath

    net = Net(lambda net, x: x + net.d(net.p(net.f(x))), f=heavy(), p=DropPath(0.999), d=nn.Dropout(0.5))
    assert list(linted(net, torch.randn(1, 8), train=True)) == []


def test_parts_of_a_split_are_forks_too() -> None:
    def function(net: Any, x: Tensor) -> Tensor:
        parts = net.first(x).chunk(2, -1)
        return torch.cat((parts[0], net.f(parts[1])), -1)

    findings = linted(Net(function, first=linear(8, 16), f=heavy()))
    assert list(findings) == []
    assert not [note for note in findings.notes if note.startswith(RULE)]


def test_random_state_and_gradients_are_left_alone() -> None:
    def state(model: nn.Module) -> list[Any]:
        return [
            *(p.grad for p in model.parameters()),
            *(b.tolist() for b in model.buffers()),
            torch.get_rng_state()[:9].tolist(),
        ]

    model = Net(lambda net, x: x + 0 * net.norm(net.f(x)), f=heavy(), norm=nn.BatchNorm1d(8))
    program = skiplab.capture(model, (torch.randn(3, 8),), train=True)
    before = state(model)
    assert len(lint(program)) == 1
    assert state(model) == before


def test_a_graph_that_does_not_run_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    program = skiplab.capture(Scaled("learned"), (torch.randn(3, 8),))

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr("skiplab.linter.dead_branch.Execution", fail)
    assert (
        "dead-branch: the graph could not be run on its example (RuntimeError: out of memory)." in lint(program).notes
    )
