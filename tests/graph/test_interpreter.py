import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import skiplab
from cases import captured
from networks import Block, Counting, Net, linear
from skiplab.graph.interpreter import Execution, run
from skiplab.graph.program import Program

NAMES = ["in_place", "pre_norm", "unet", "dense_block", "res2net", "counting", "checkpoint", "resnet20", "bert"]


def same(a: Any, b: Any) -> bool:
    pairs = zip(pytree.tree_leaves(a), pytree.tree_leaves(b), strict=True)
    return all(torch.equal(x, y) if isinstance(x, Tensor) else x == y for x, y in pairs)


def halves(value: Tensor) -> Tensor:
    return value / 2


@pytest.fixture(autouse=True)
def _without_gradients() -> Any:
    with torch.no_grad():
        yield


@pytest.mark.parametrize("name", NAMES)
def test_a_fork_is_bit_identical_to_a_run_from_the_start(name: str) -> None:
    """At every op, with and without a patch, and whatever the order in which the passes go on."""
    case = captured(name)
    program = case.program
    whole = run(program, *case.args, **case.kwargs)
    trunk = Execution(program, case.args, case.kwargs)
    for op in program.ops[1 :: max(1, len(program.ops) // 12)]:
        operand = program.ops[op.inputs[0]] if op.inputs else None
        trunk.run_until(op.name)
        assert same(trunk.fork({}).finish(), whole)
        if operand is None or not isinstance(
            trunk.env.get(next(n for n in trunk.env if n.name == operand.name)), Tensor
        ):
            continue
        if not trunk.env[next(n for n in trunk.env if n.name == operand.name)].is_floating_point():
            continue
        patches = {(op.name, operand.name): halves}
        patched = Execution(program, case.args, case.kwargs, patches=patches).finish()
        assert same(trunk.fork(patches).finish(), patched)
    assert same(trunk.finish(), whole)


def test_forks_of_a_training_graph_leave_the_statistics_alone() -> None:
    case = captured("in_place", train=True)
    trunk = Execution(case.program, case.args)
    names = [op.name for op in case.program.ops if op.kind == "batch_norm"]
    assert len(names) == 2
    before = {n: t.clone() for n, t in case.program.tensors.items()}
    for name in names:
        trunk.run_until(name)
        trunk.fork({}).finish()
    trunk.finish()
    assert all(torch.equal(case.program.tensors[n], before[n]) for n in before)
    moved = [n for n in before if not torch.equal(trunk.values[n], before[n])]
    once = Execution(case.program, case.args)
    once.finish()
    assert moved
    assert all(torch.equal(trunk.values[n], once.values[n]) for n in moved)


def test_a_model_that_counts_counts_once_a_pass() -> None:
    model = Counting().eval()
    program = skiplab.capture(model, (torch.randn(3, 8),))
    x = torch.randn(3, 8)
    expected = run(program, x)
    trunk = Execution(program, (x,))
    for op in program.ops[1:]:
        trunk.run_until(op.name)
        assert torch.equal(trunk.fork({}).finish(), expected)
    assert torch.equal(trunk.finish(), expected)
    assert float(model.steps) == 0
    assert not model.queue.any()


def test_recording() -> None:
    model = Block()
    program = skiplab.capture(model, (torch.randn(3, 8),))
    values: list = []
    model.branch.register_forward_hook(lambda module, args, output: values.append(output))
    x = torch.randn(3, 8)
    output = model(x)
    skip = skiplab.find(program)[0]
    execution = Execution(program, (x,)).recording([skip.fork, skip.merge, *skip.branch])
    assert torch.equal(execution.finish(), output)
    assert set(execution.recorded) == {skip.fork, skip.merge, *skip.branch}
    assert torch.equal(execution.recorded[skip.fork], x)
    assert torch.equal(execution.recorded[skip.branch[0]], values[0])
    assert torch.equal(execution.recorded[skip.merge], output)
    assert execution.fork({}).recorded == {}


def test_recorded_values_are_not_overwritten_later() -> None:
    case = captured("in_place")
    merge = case.skips[0].merge
    execution = Execution(case.program, case.args).recording([merge])
    output = execution.finish()
    assert (execution.recorded[merge] < 0).any()  # the in-place ReLU after it did not touch it
    assert torch.equal(execution.recorded[merge].relu(), output)


def test_a_patch_reaches_one_reader_alone() -> None:
    program = skiplab.capture(Net(lambda net, x: (torch.tanh(x), torch.sin(x), torch.cos(x) + x)), (torch.randn(3, 8),))
    x = torch.randn(3, 8)
    edge = ("sin", program.ops[0].name)
    tanh, sin, rest = Execution(program, (x,), patches={edge: torch.zeros_like}).finish()
    assert torch.equal(tanh, x.tanh())
    assert torch.equal(sin, torch.zeros_like(x))
    assert torch.equal(rest, x.cos() + x)


def test_a_patch_of_the_output() -> None:
    program = skiplab.capture(Net(lambda net, x: torch.tanh(x)), (torch.randn(3, 8),))
    last = program.ops[-1].name
    output = Execution(program, (torch.ones(3, 8),), patches={("output", last): torch.zeros_like}).finish()
    assert not output.any()


def test_a_value_in_passing() -> None:
    case = captured("unet")
    for skip in case.skips:
        execution = Execution(case.program, case.args).recording([skip.merge])
        execution.finish()
        passing = Execution(case.program, case.args)
        assert torch.equal(passing.value(skip.merge), execution.recorded[skip.merge])
        assert same(passing.finish(), execution.output[0])


def test_advancing_is_in_steps_and_never_back() -> None:
    program = captured("block").program
    x = torch.randn(3, 8)
    execution = Execution(program, (x,))
    first, last = program.ops[1].name, program.ops[-1].name
    execution.run_until(last).run_until(first)
    assert execution.position == execution.plan.index[last]
    assert torch.equal(execution.finish(), execution.finish())
    with pytest.raises(KeyError):
        execution.run_until("nothing")


def test_values_are_dropped_after_their_last_reader() -> None:
    program = skiplab.capture(nn.Sequential(*(linear() for _ in range(6))), (torch.randn(3, 8),))
    alive: list[weakref.ref[Tensor]] = []
    most = 0

    class Watched(Execution):
        def run_node(self, n: Any) -> Any:
            nonlocal most
            value = super().run_node(n)
            if n.op == "call_function":
                alive.append(weakref.ref(value))
                most = max(most, sum(reference() is not None for reference in alive))
            return value

    Watched(program, (torch.randn(3, 8),)).finish()
    assert len(alive) == 6
    assert most == 2  # the layer's operand and its result


def test_other_tensors_can_stand_for_the_parameters() -> None:
    model = nn.Sequential(linear())
    program = skiplab.capture(model, (torch.randn(3, 8),))
    x = torch.randn(3, 8)
    names = {fqn: name for name, fqn in program.parameters.items()}
    zeros = {names["0.weight"]: torch.zeros(8, 8)}
    assert torch.equal(Execution(program, (x,), tensors=zeros).finish(), model.get_parameter("0.bias").expand(3, 8))
    assert torch.equal(run(program, x), model(x))


def test_gradients_flow_through_an_execution() -> None:
    model = Block()
    program: Program = skiplab.capture(model, (torch.randn(3, 8),))
    with torch.enable_grad():
        x = torch.randn(3, 8, requires_grad=True)
        (mine,) = torch.autograd.grad(run(program, x).square().sum(), x)
        (wanted,) = torch.autograd.grad(model(x).square().sum(), x)
    assert torch.equal(mine, wanted)
    assert all(parameter.grad is None for parameter in model.parameters())
