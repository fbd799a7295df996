"""Edits one after another, drawn at random, on random networks."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.fx import Node
from torch.utils import _pytree as pytree

import skiplab
from oracles.edited import found
from planted import FORMS, network, plans
from skiplab import edit
from skiplab.analysis.equal_blocks import exchangeable_pairs
from skiplab.analysis.skips import Skips
from skiplab.errors import UsageError
from skiplab.graph.program import Program

Edit = Callable[[Program, Skips], Program]


def swapped(program: Program, skips: Skips) -> Program:
    pairs = exchangeable_pairs(program, skips)
    return edit.reorder(program, Skips(pairs[0]), (1, 0)) if pairs else program


def inserted(program: Program, skips: Skips) -> Program:
    return edit.insert(program, edit.places(program, 1), "B", scale=0.5, learn=True)


EDITS: dict[str, Edit] = {
    "remove_shortcut": edit.remove_shortcut,
    "remove_branch": edit.remove_branch,
    "scale": lambda program, skips: edit.scale(program, skips, shortcut=0.5, branch=2.0),
    "rezero": edit.rezero,
    "layer_scale": edit.layer_scale,
    "average": edit.average,
    "drop_path": lambda program, skips: edit.drop_path(program, skips, 0.5),
    "gate": lambda program, skips: edit.gate(program, skips, form="shortcut-only"),
    "highway": edit.highway,
    "reorder": swapped,
    "insert": inserted,
}
# What an edit says that cannot be done: of concatenations, of two skips at one merge, of a chain that is too short.
REFUSALS = (
    "concatenat",
    "at the merge of another skip",
    "weight layers that all data pass",
    "no shortcut fits",
    "would lose all its operands",
)


def sizes(node: Node, rows: int) -> list[Any]:
    """What the graph says of a value's shape, with a number of samples in place of what varies."""
    return [size if isinstance(size, int) else rows for size in node.meta["val"].shape]


def unread(program: Program) -> set[str]:
    """Names of tensors that no operator reads."""
    stored = {**program.parameters, **program.buffers}
    return {stored[node.name] for node in program.graph.graph.nodes if node.name in stored and not node.users}


def assert_sound(program: Program, original: Program) -> None:
    """Of the graph, of its shapes and of what becomes of tensors."""
    graph = program.graph.graph
    graph.lint()
    for node in graph.nodes:
        if node.op == "call_function" and not node.users:
            assert node.target._schema.is_mutable, node  # type: ignore[union-attr]
    assert program.tensors.keys() == program.parameters.keys() | program.buffers.keys()
    assert unread(program) <= unread(original)
    old = {*original.parameters.values(), *original.buffers.values()}
    here = {*program.parameters.values(), *program.buffers.values()}
    assert here | program.removed == old | program.added
    assert not here & program.removed
    module = program.module()
    assert set(module.state_dict()) == here - program.transient
    module.load_state_dict(original.module().state_dict())
    x = torch.randn(3, *program.example[0][0].shape[1:])
    output = next(iter(graph.find_nodes(op="output")))
    for training in (False, True):
        with torch.no_grad():
            values = pytree.tree_leaves(module.train(training)(x))
        assert [list(value.shape) for value in values] == [sizes(node, 3) for node in output.args[0]]
        assert all(value.isfinite().all() for value in values)


def bits(program: Program) -> tuple[Any, ...]:
    tensors = {name: tensor.detach().clone() for name, tensor in program.tensors.items()}
    return tensors, str(program.graph.graph), program.graph.code, program.fingerprint


def assert_unchanged(program: Program, before: tuple[Any, ...]) -> None:
    tensors, *rest = bits(program)
    assert rest == list(before[1:])
    assert tensors.keys() == before[0].keys()
    assert all(torch.equal(tensor, before[0][name]) for name, tensor in tensors.items())


def attempted(edit: Edit, program: Program, skips: Skips) -> Program:
    """What comes of it; the same program where it is refused for a reason."""
    try:
        return edit(program, skips)
    except UsageError as error:
        if not any(refusal in str(error) for refusal in REFUSALS):
            raise
        return program


def chosen(skips: Skips, kept: list[bool]) -> Skips:
    """Some of them, at least one where there is any."""
    some = Skips(skip for i, skip in enumerate(skips) if kept[i % len(kept)])
    return some if len(some) else skips


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=12)
@given(data=st.data())
def test_any_edits_in_any_order(form: str, data: st.DataObject) -> None:
    torch.manual_seed(0)
    program, _ = found(network(data.draw(plans(FORMS[form])), FORMS[form]), FORMS[form].shape)
    original, before = program, bits(program)
    for name in data.draw(st.lists(st.sampled_from(sorted(EDITS)), min_size=1, max_size=4)):
        skips = skiplab.find(program).in_graph()
        if not skips and name != "insert":
            continue
        skips = chosen(skips, data.draw(st.lists(st.booleans(), min_size=1, max_size=3)))
        previous, old = program, bits(program)
        program = attempted(EDITS[name], program, skips)
        assert_unchanged(previous, old)
        if program is not previous:
            assert_sound(program, original)
    assert_unchanged(original, before)
    assert all(isinstance(tensor, Tensor) for tensor in program.tensors.values())
