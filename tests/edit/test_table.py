"""Edits of every network of the table of cases, against the network itself and against lesions of it."""

import copy
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from cases import CASES, NUMERIC, Captured, captured
from skiplab.analysis.edges import branch_edges, shortcut_edges
from skiplab.analysis.skips import Skip, Skips
from skiplab.edit import remove_branch, remove_shortcut, scale
from skiplab.graph.interpreter import Edge, Execution, run
from skiplab.graph.program import Program

Edit = Callable[[Program, Skips], Program]
Edges = Callable[[Program, Skip], tuple[Edge, ...]]
# Removing an operand leaves values in another layout of memory, in which they are summed in another order.
ROUNDED = {("timm_tiny_vit", "branch"), ("timm_volo", "shortcut"), ("segformer", "branch"), ("segformer", "shortcut")}


def lesioned(program: Program, inputs: Any, edges: Iterable[Edge]) -> Any:
    with torch.no_grad():
        return Execution(program, *inputs, patches=dict.fromkeys(edges, torch.zeros_like)).finish()


def larger(case: Captured) -> Any:
    """The example with one sample more, where their number may vary."""
    inputs = case.args, case.kwargs
    if not case.program.dynamic_batch:
        return inputs
    return pytree.tree_map_only(Tensor, lambda t: torch.cat((t, t[:1])) if t.dim() else t, inputs)


def assert_same(a: Any, b: Any, rounded: bool = False) -> None:
    for one, other in zip(pytree.tree_leaves(a), pytree.tree_leaves(b), strict=True):
        if isinstance(one, Tensor) and rounded:
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
        else:
            assert torch.equal(one, other) if isinstance(one, Tensor) else one == other


def names(program: Program, case: Captured) -> set[str]:
    return case.model.state_dict().keys() - program.removed | program.added


def losses(output: Any) -> list[Tensor]:
    leaves = [each for each in pytree.tree_leaves(output) if isinstance(each, Tensor) and each.requires_grad]
    return [each.float().square().mean() for each in leaves]


def scaled(program: Program, skips: Skips) -> Program:
    return scale(program, skips, shortcut=1, branch=1, learn="scalar") if skips else program


@pytest.mark.parametrize("name", NUMERIC)
def test_module_computes_what_the_program_does(name: str) -> None:
    """With factors of one on all ways of all skips too; and it learns."""
    case = captured(name)
    program, skips = case.program, case.skips.in_graph()
    clean = lesioned(program, (case.args, case.kwargs), ())
    edited = scaled(program, skips)
    for each in (program, edited):
        module = each.module()
        assert set(module.state_dict()) == names(each, case)
        with torch.no_grad():
            assert_same(module(*case.args, **case.kwargs), clean)
    module = copy.deepcopy(module).train()
    sum(losses(module(*case.args, **case.kwargs)), torch.zeros(())).backward()
    gradients = {name: parameter.grad for name, parameter in module.named_parameters() if parameter.grad is not None}
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    with torch.no_grad():
        assert_same(run(program, *case.args, **case.kwargs), clean)
    assert bool(gradients) == any(parameter.requires_grad for parameter in case.model.parameters())


@pytest.mark.parametrize("name", [name for name in CASES if CASES[name].skips])
def test_removing_is_a_lesion(name: str) -> None:
    """Of all branches, of the middle one's, of all shortcuts; without values, the structure alone is looked at."""
    case = captured(name)
    program, skips = case.program, case.skips.in_graph()
    middle, inputs = skips[len(skips) // 2 :][:1], larger(case)
    before = str(program.graph.graph), program.fingerprint
    edits: list[tuple[str, Edit, Edges, Skips]] = [
        ("branch", remove_branch, branch_edges, skips),
        ("branch", remove_branch, branch_edges, middle if len(skips) > 1 else skips[:0]),
        ("shortcut", remove_shortcut, shortcut_edges, skips),
    ]
    for way, edit, edges_of, chosen in edits if skips else ():
        edited = edit(program, chosen)
        if not CASES[name].meta and chosen:
            edges = {edge for skip in chosen for edge in edges_of(program, skip)}
            module = edited.module()
            assert set(module.state_dict()) == names(edited, case)
            with torch.no_grad():
                assert_same(module(*inputs[0], **inputs[1]), lesioned(program, inputs, edges), (name, way) in ROUNDED)
    assert (str(program.graph.graph), program.fingerprint) == before
