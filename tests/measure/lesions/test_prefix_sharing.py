from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx import Node

import skiplab
from cases import captured
from networks import Net, heavy
from oracles.memory import measured, storage
from skiplab.data.bound_batches import validate_batches
from skiplab.graph.interpreter import Execution
from skiplab.graph.program import Program
from skiplab.measure.lesions.prefix_sharing import forks
from skiplab.measure.lesions.replacements import zero
from skiplab.measure.lesions.resumable_pass import Part
from skiplab.measure.lesions.spec import deletions, grouped


def part_of(program: Program, x: Tensor, ticks: list[int] | None = None) -> Part:
    (given,) = validate_batches(program, [(x, None)])
    return Part(given, 0, (ticks if ticks is not None else []).append)


@pytest.mark.parametrize("name", ["dense_block", "unet", "pre_norm"])
def test_what_precedes_a_lesion_runs_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = captured(name)
    ran = 0
    run_node = Execution.run_node

    def counted(execution: Execution, n: Node) -> Any:
        nonlocal ran
        ran += 1
        return run_node(execution, n)

    monkeypatch.setattr(Execution, "run_node", counted)
    lesions = deletions(case.program, grouped(case.skips, 1), {"branch": zero})
    ticks: list[int] = []
    for _, execution in forks(case.program, part_of(case.program, case.args[0], ticks), lesions):
        execution.finish()
    names = list(case.program.nodes)
    assert ran == len(names) + sum(len(names) - names.index(lesion.start) for lesion in lesions)
    assert ticks == list(range(len(lesions) + 1))


def test_lesions_in_any_order_and_the_whole_network_last() -> None:
    case = captured("dense_block")
    lesions = deletions(case.program, grouped(case.skips, 1), {"branch": zero})
    part = part_of(case.program, case.args[0])
    straight = {place: execution.finish() for place, execution in forks(case.program, part, lesions)}
    backwards = {place: execution.finish() for place, execution in forks(case.program, part, lesions[::-1])}
    count = len(lesions)
    assert list(straight)[-1] == list(backwards)[-1] == count
    assert all(torch.equal(straight[place], backwards[count - 1 - place]) for place in range(count))
    assert torch.equal(straight[count], Execution(case.program, case.args).finish())


@pytest.mark.parametrize("name", ["dense_block", "unet", "resnet20"])
def test_one_state_of_the_whole_network_is_alive_beside_one_fork(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """While any node runs, what both passes hold is at most twice what the whole network's pass ever holds."""
    case = captured(name)
    x = case.args[0]
    peak = max(measured(case.program, (x,), {}))
    alive: dict[int, Execution] = {}
    largest = 0
    run_node = Execution.run_node
    weights = {tensor.untyped_storage()._cdata for tensor in case.program.tensors.values()}

    def watched(execution: Execution, n: Node) -> Any:
        nonlocal largest
        value = run_node(execution, n)
        alive[id(execution)] = execution
        values = [value, *(v for each in alive.values() for v in each.env.values())]
        held = {storage(v) for v in values if isinstance(v, Tensor)}
        largest = max(largest, sum(size for name, size in held if name not in weights))
        return value

    monkeypatch.setattr(Execution, "run_node", watched)
    lesions = deletions(case.program, grouped(case.skips, 1), {"branch": zero})
    for place, execution in forks(case.program, part_of(case.program, x), lesions):
        execution.finish()
        if place < len(lesions):
            del alive[id(execution)]
    assert peak < largest <= 2 * peak


def test_a_program_with_writes_that_stay_in_place_forks_from_the_start() -> None:
    """Its forks run the whole network anew, with the patches that all networks have."""

    def forward(net: Any, x: Tensor) -> Tensor:
        return net.b(x + net.a(x))

    program = skiplab.capture(Net(forward, a=heavy(), b=heavy()), (torch.randn(3, 8),))
    (skip,) = skiplab.find(program)
    lesions = deletions(program, grouped(skiplab.find(program), 1), {"branch": zero})
    everywhere = {(skip.merge, skip.operand): lambda value: 2 * value}
    x = torch.randn(3, 8)
    outputs = []
    for unfollowed in ((), ("something",)):
        object.__setattr__(program, "unfollowed", unfollowed)
        outputs.append(
            [execution.finish() for _, execution in forks(program, part_of(program, x), lesions, everywhere)]
        )
    assert all(torch.equal(a, b) for a, b in zip(*outputs, strict=True))
    assert not torch.equal(*outputs[0])
