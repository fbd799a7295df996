"""Additions that an operator does on the side, and blocks that the exported graph hides."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import skiplab
from cases import captured
from networks import Autocast, Frozen, Net, TwoInputs, heavy, linear
from skiplab.graph.interpreter import run
from skiplab.graph.program import Program

FUSED: dict[str, Callable[[Any, Tensor, Tensor], Tensor]] = {
    "addmm": lambda net, x, y: torch.addmm(x, y, net.a.weight, beta=0.5, alpha=2),
    "addmm_": lambda net, x, y: (x * 1).addmm_(y, net.a.weight),
    "baddbmm": lambda net, x, y: torch.baddbmm(x[:, None], y[:, None], net.a.weight.expand(4, 8, 8), alpha=2),
    "addmv": lambda net, x, y: torch.addmv(x[:, 0], y, net.a.bias, beta=3),
    "addr": lambda net, x, y: torch.addr(x, y[:, 0], net.a.bias, alpha=3),
    "addcmul": lambda net, x, y: torch.addcmul(x, y, y, value=0.5),
    "addcdiv": lambda net, x, y: torch.addcdiv(x, y, y.square() + 1, value=2),
    "lerp": lambda net, x, y: torch.lerp(x, y, 0.25),
    "lerp_tensor": lambda net, x, y: torch.lerp(x, y, torch.sigmoid(x + y)),
    "stack_sum": lambda net, x, y: torch.stack([x, y, x * y], 1).sum(1),
    "stack_sum_negative": lambda net, x, y: torch.stack([x, y]).sum(dim=-3),
    "add_alpha": lambda net, x, y: torch.add(x, y, alpha=3),
    "sub_alpha": lambda net, x, y: torch.sub(x, y, alpha=3),
    "rsub_alpha": lambda net, x, y: torch.rsub(x, y, alpha=3),
    "scalar_minus": lambda net, x, y: (1 - x) - (y - 2),
}


def capture(function: Callable[[Any, Tensor, Tensor], Any]) -> tuple[nn.Module, Program]:
    model = TwoInputs(function, a=linear())
    return model, skiplab.capture(model, (torch.randn(4, 8), torch.randn(4, 8)))


@pytest.mark.parametrize("name", FUSED)
def test_unfolded_additions_compute_the_same(name: str) -> None:
    model, program = capture(FUSED[name])
    for size in (4, 4, 3) if program.dynamic_batch else (4,):
        x, y = torch.randn(2, size, 8).unbind(0)
        with torch.no_grad():
            assert torch.allclose(run(program, x, y), model(x, y), atol=1e-5)


@pytest.mark.parametrize("name", [name for name in FUSED if name != "scalar_minus"])
def test_unfolded_additions_are_merges(name: str) -> None:
    _, program = capture(FUSED[name])
    last = program.ops[program.outputs[0]]
    assert (last.kind, last.target) == ("merge", "add")
    assert "other" not in {op.kind for op in program.ops}
    assert last.source is not None


@pytest.mark.parametrize(
    "function",
    [
        lambda net, x, y: torch.stack([x, net.a(y)], 1)[:, -1],
        lambda net, x, y: torch.stack([x, net.a(y)], -1).select(2, 1),
        lambda net, x, y: torch.stack([net.a(y), x])[-2],
    ],
)
def test_an_entry_of_a_stack_is_what_was_put_there(function: Callable[[Any, Tensor, Tensor], Tensor]) -> None:
    model, program = capture(function)
    assert [op.target for op in program.ops] == ["input", "input", "linear"]
    x, y = torch.randn(2, 4, 8)
    assert torch.equal(run(program, x, y), model(x, y))


def test_an_entry_across_a_stack_is_of_all() -> None:
    _, program = capture(lambda net, x, y: torch.stack([x, net.a(y)], 1)[..., 0])
    assert "stack" in {op.target for op in program.ops}


@pytest.mark.parametrize(
    "function",
    [
        lambda net, x, y: torch.stack([x, y]).sum(1),  # not over what was stacked
        lambda net, x, y: torch.stack([x, y]).sum(),
        lambda net, x, y: torch.stack([x, y]).sum(0, keepdim=True),
        lambda net, x, y: torch.stack([x, y]).sum(0, dtype=torch.double),
        lambda net, x, y: (stacked := torch.stack([x, y])).sum(0) + stacked.amax(0),  # read again
    ],
)
def test_other_sums_stay_sums(function: Callable[[Any, Tensor, Tensor], Tensor]) -> None:
    model, program = capture(function)
    assert "stack" in {op.target for op in program.ops}
    x, y = torch.randn(2, 4, 8).unbind(0)
    assert torch.equal(run(program, x, y), model(x, y))


def test_a_bias_is_no_operand_of_a_merge() -> None:
    """The linear layers of GPT-2 are `addmm(bias, x, weight)`."""
    layers = [op for op in captured("gpt2").program.ops if op.target == "addmm"]
    assert [op.kind for op in layers] == ["weight"] * (4 * 2)
    assert all(len(op.weights) == 2 for op in layers)


def test_blocks_become_part_of_the_graph_around_them() -> None:
    model = Frozen()
    program = skiplab.capture(model, (torch.randn(3, 8),))
    assert all(node.op != "get_attr" for node in program.graph.graph.nodes)
    assert {"frozen", "exact"} == {skip.path for skip in skiplab.find(program)}
    x = torch.randn(5, 8)
    assert torch.equal(run(program, x), model(x))


def test_blocks_within_blocks() -> None:
    def function(net: Any, x: Tensor) -> Tensor:
        with torch.no_grad():
            y = net.a(x)
            with torch.enable_grad():
                z = torch.tanh(net.a(y))
            return y + net.a(z)

    model = Net(function, a=linear())
    program = skiplab.capture(model, (torch.randn(3, 8),))
    kinds = [op.kind for op in program.ops if op.target != "detach"]
    assert kinds == ["input", "weight", "weight", "activation", "weight", "merge"]
    assert skiplab.find(program).expect(1)
    x = torch.randn(3, 8)
    assert torch.equal(run(program, x), model(x))


def test_a_block_under_autocast_is_searched_too() -> None:
    exported = skiplab.capture(Autocast(), (torch.randn(3, 8),), how="export")
    assert 0 < exported.difference < 0.1  # half precision against whole
    recorded = skiplab.capture(Autocast(), (torch.randn(3, 8),))
    assert recorded.difference == 0  # the casts are operators of the graph
    for program in (exported, recorded):
        assert skiplab.find(program).expect(1)
        assert "other" not in {op.kind for op in program.ops}


@pytest.mark.parametrize(
    "function",
    [
        lambda net, x: net.a(x) - x.shape[0],
        lambda net, x: net.a(x).sub(x.size(0)),
        lambda net, x: torch.add(net.a(x), x.shape[0], alpha=2),
        lambda net, x: torch.lerp(x, net.a(x), 1 / x.size(0)),
        lambda net, x: torch.rsub(net.a(x), x.shape[0]),
    ],
)
def test_a_size_that_varies_is_no_operand(function: Callable[[Any, Tensor], Tensor]) -> None:
    model = Net(function, a=linear())
    program = skiplab.capture(model, (torch.randn(3, 8),))
    x = torch.randn(5, 8)
    assert torch.allclose(run(program, x), model(x), atol=1e-6)


def test_a_sum_that_nobody_reads_stays() -> None:
    def function(net: Any, x: Tensor) -> Tensor:
        _ = x + net.f(x)
        return net.a(x)

    program = skiplab.capture(Net(function, a=linear(), f=heavy()), (torch.randn(3, 8),))
    assert skiplab.find(program).expect(1)
