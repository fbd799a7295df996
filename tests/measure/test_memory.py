import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

import skiplab
from cases import captured
from networks import Block, Net, heavy, linear
from oracles.memory import measured
from skiplab.analysis.edges import shortcut_edges
from skiplab.measure.memory import live_bytes, lives, peak_bytes

FLOAT = 4


@pytest.mark.parametrize(
    "name",
    [
        "block",
        "unet",
        "dense_block",
        "res2net",
        "in_place",
        "bert",
        "lstm",
        "lstm_cell",
        "keywords",
        "resnet20",
        "dropout",
    ],
)
def test_against_the_storages_of_a_running_pass(name: str) -> None:
    program = captured(name).program
    args, kwargs = pytree.tree_map(lambda t: t[:1].clone() if isinstance(t, torch.Tensor) else t, program.example)
    assert live_bytes(program).tolist() == measured(program, args, kwargs)


def test_two_blocks_by_hand() -> None:
    """x, of ten floats, lies beside the forty of its branch until it is added; twice forty where ReLU makes its own."""
    model = nn.Sequential(*(Net(lambda net, x: x + net.f(x), f=wide()) for _ in range(2)))
    program = skiplab.capture(model, (torch.randn(3, 10),))
    value, inner = 10 * FLOAT, 40 * FLOAT
    block = [value + inner, value + 2 * inner, value + inner + value, 3 * value]  # linear, ReLU, linear, addition
    ran = [node.name for node in program.graph.graph.nodes if node.op == "call_function"]
    alive = dict(zip(program.nodes, live_bytes(program).tolist(), strict=True))
    assert [alive[name] for name in ran] == block + block
    assert peak_bytes(program) == value + 2 * inner


def wide() -> nn.Sequential:
    return nn.Sequential(linear(10, 40), nn.ReLU(), linear(40, 10))


def test_views_live_in_the_memory_of_what_they_show() -> None:
    program = skiplab.capture(
        Net(lambda net, x: net.a(x).flatten(1).unflatten(1, (4, 2)), a=linear()), (torch.ones(2, 8),)
    )
    assert [life.bytes for life in lives(program)] == [8 * FLOAT, 8 * FLOAT]
    assert lives(program)[1].dies == len(program.nodes) - 1


def test_without_a_shortcut_its_value_and_what_only_it_needs_are_gone() -> None:
    model = Net(lambda net, x: net.p(x) + net.f(x), f=heavy(), p=linear())
    program = skiplab.capture(model, (torch.randn(3, 8),))
    (skip,) = skiplab.find(program)
    before, after = lives(program), lives(program, shortcut_edges(program, skip))
    assert {life.name for life in before} - {life.name for life in after} == {skip.operand}
    assert live_bytes(program, shortcut_edges(program, skip)).sum() < live_bytes(program).sum()


def test_one_batch_size_alone() -> None:
    """The same sizes a sample, whether the batch may vary or not."""
    fixed = Net(lambda net, x: net.b(x.reshape(3, 8)), b=Block())
    program = skiplab.capture(fixed, (torch.randn(3, 8),))
    assert not program.dynamic_batch
    assert peak_bytes(program) == peak_bytes(captured("block").program)
