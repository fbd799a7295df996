"""What every edit refuses: skips of another program, of an earlier one, and inside a fused operator."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

import skiplab
from networks import Net, around, heavy
from oracles.edited import blocks, found
from skiplab import edit
from skiplab.analysis.edges import branch_edges, shortcut_edges
from skiplab.analysis.skips import Skips
from skiplab.edit import insert, remove_branch, scale
from skiplab.edit.graph_editor import GraphEditor
from skiplab.errors import StaleSkip, UsageError
from skiplab.graph.interpreter import run
from skiplab.graph.program import Program

EDITS: dict[str, Callable[[Program, Skips], Program]] = {
    "remove_shortcut": edit.remove_shortcut,
    "remove_branch": edit.remove_branch,
    "scale": lambda program, skips: edit.scale(program, skips, branch=2.0),
    "rezero": edit.rezero,
    "layer_scale": edit.layer_scale,
    "average": edit.average,
    "drop_path": lambda program, skips: edit.drop_path(program, skips, 0.5),
    "gate": edit.gate,
    "highway": edit.highway,
    "reorder": lambda program, skips: edit.reorder(program, skips, range(len(skips))),
}


@pytest.mark.parametrize("kind", EDITS)
def test_skips_of_another_program(kind: str) -> None:
    program, skips = found(blocks("vector"), (3, 4))
    others = [blocks("vector", 2), blocks("tokens")]
    programs = [found(others[0], (3, 4))[0], found(others[1], (3, 5, 4))[0], scale(program, skips, shortcut=0.5)]
    programs += [remove_branch(program, skips[:1]), insert(program, [("0.branch.0", "2.branch.0")])]
    for other in programs:
        with pytest.raises(StaleSkip, match="skip `0` was found in another program: call `find` on this one again"):
            EDITS[kind](other, skips)


@pytest.mark.parametrize("kind", EDITS)
def test_skips_inside_a_fused_operator(kind: str) -> None:
    model = Net(lambda net, x: x + net.lstm(x)[0], lstm=nn.LSTM(8, 8, batch_first=True))
    program, skips = found(model, (2, 5, 8))
    assert len(skips.expect(2).in_graph()) == 1
    with pytest.raises(UsageError, match=r"a cell state inside the operator `lstm.*leave such skips out"):
        EDITS[kind](program, skips)
    assert EDITS[kind](program, skips.in_graph()).fingerprint


@pytest.mark.parametrize("kind", [kind for kind in EDITS if kind != "reorder"])
def test_no_skips_change_nothing(kind: str) -> None:
    program, skips = found(blocks("vector"), (3, 4))
    assert EDITS[kind](program, skips[:0]).fingerprint == program.fingerprint


def test_two_skips_that_share_a_merge_lose_one_way_together() -> None:
    """x + F(x) + G(F(x)): the one's branch is the other's shortcut."""
    model = Net(lambda net, x: (y := net.f(x)) + net.g(y) + x, f=heavy(), g=heavy())
    program, skips = found(model, (3, 8))
    assert len({skip.merge for skip in skips.expect(2)}) == 1
    x = torch.randn(3, 8)
    f, g = model.get_submodule("f"), model.get_submodule("g")
    assert torch.equal(run(edit.remove_shortcut(program, skips), x), g(f(x)))
    assert torch.equal(run(remove_branch(program, skips), x), x)


def test_a_sum_keeps_one_of_its_operands() -> None:
    program, skips = found(around(lambda x, f: x + f), (3, 8))
    ways = [edge for edges in (branch_edges, shortcut_edges) for edge in edges(program, skips[0])]
    with pytest.raises(UsageError, match=r"the sum `add` .*would lose all its operands: leave one of them"):
        GraphEditor(program).remove_operands(ways)


def test_a_program_stays_what_it_was_when_an_edit_fails() -> None:
    program, skips = found(around(lambda x, f: torch.cat((x, f), -1)), (3, 8))
    before = str(program.graph.graph), dict(program.tensors)
    for refused in (edit.average, edit.gate):
        with pytest.raises(UsageError):
            refused(program, skips)
    assert (str(program.graph.graph), dict(program.tensors)) == before
    assert len(skiplab.find(program)) == 1
