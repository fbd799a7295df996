"""Factors on the two ways of a skip connection: constants, or scalars and vectors that learn."""

import math
from collections.abc import Iterable
from typing import Literal

import torch
from torch.fx import Node

from skiplab.analysis.edges import branch_edges, into, shortcut_edges
from skiplab.analysis.merges import merge_at
from skiplab.analysis.skips import Skip, Skips
from skiplab.edit.graph_editor import Draft
from skiplab.errors import UsageError
from skiplab.graph.interpreter import Edge
from skiplab.graph.program import Program

Learn = Literal["no", "scalar", "vector"]
aten = torch.ops.aten


def scale(
    program: Program, skips: Skips, shortcut: float | None = None, branch: float | None = None, learn: Learn = "no"
) -> Program:
    """Multiplies what comes over the shortcut, over the branch, or over both, as it enters the merge.

    Args:
        program: the network.
        skips: those to scale. Where one value enters a merge as the branch of several (a dense block), it is scaled
            once.
        shortcut, branch: the factors; a way without one stays as it is.
        learn: "no": a constant. "scalar": a parameter `shortcut_scale` or `branch_scale` of the module in which the
            merge stands, of shape (), which starts at the factor. "vector": the same with one number a channel.

    Raises:
        StaleSkip: for skips of another program.
        UsageError: without any factor; for the cell state of a fused recurrent operator; for values that are no real
            numbers.
    """
    skips.check(program).require_merges()
    if learn not in ("no", "scalar", "vector"):
        raise UsageError(f"learn={learn!r}: choose no, scalar or vector")
    if shortcut is None and branch is None:
        raise UsageError("there is nothing to scale by: give a factor for the shortcut, the branch or both")
    for factor in (shortcut, branch):
        if factor is not None and not math.isfinite(factor):
            raise UsageError(f"a factor of {factor}: give a finite number")
    draft = Draft(program)
    done: set[Edge] = set()
    for skip in skips:
        for way, factor, edges in (
            ("shortcut", shortcut, shortcut_edges(program, skip)),
            ("branch", branch, branch_edges(program, skip)),
        ):
            left = [edge for edge in edges if edge not in done]
            if factor is not None and left:
                done.update(left)
                _scaled(draft, skip, left, f"{way}_scale", factor, learn)
    return draft.done()


def rezero(program: Program, skips: Skips) -> Program:
    """Each branch times a scalar that learns and starts at zero: x + αF(x).

    Bachlechner et al. 2021, ReZero is All You Need, arXiv:2003.04887, §3. De and Smith 2020, arXiv:2002.10444, §4,
    call it SkipInit where it takes the place of batch norm.
    """
    return scale(program, skips, branch=0.0, learn="scalar")


skip_init = rezero


def layer_scale(program: Program, skips: Skips, start: float = 1e-5) -> Program:
    """Each branch times a vector that learns, one number a channel: Touvron et al. 2021, arXiv:2103.17239, §2.

    Args:
        program, skips: see `scale`.
        start: what the vector starts at; §2 has 0.1 up to depth 18, 1e-5 up to 24, and 1e-6 deeper.
    """
    return scale(program, skips, branch=start, learn="vector")


def average(program: Program, skips: Skips) -> Program:
    """Each sum becomes a mean: every operand of its merge is divided by their number.

    Raises:
        UsageError: for a skip that is joined by concatenation.
    """
    skips.check(program).require_merges()
    draft = Draft(program)
    for name in dict.fromkeys(skip.merge for skip in skips):
        merge = merge_at(program, name)
        if merge.op.kind != "merge" or any(skip.combine == "concat" for skip in skips if skip.merge == name):
            raise UsageError(
                f"`{merge.op.module or name}` concatenates, and of that there is no mean: see concat_to_add"
            )
        for edge in dict.fromkeys(into(program, merge)):
            operand = draft.nodes[edge[1]]
            draft.redirect(edge, _times(draft, edge, operand, 1 / len(merge.operands)))
    return draft.done()


def _scaled(draft: Draft, skip: Skip, edges: Iterable[Edge], name: str, factor: float, learn: Learn) -> None:
    """One factor for all these edges."""
    if learn == "no" and factor == 1:
        return
    made: dict[object, Node] = {}  # one scalar, and a vector for each width
    for edge in edges:
        operand = draft.nodes[edge[1]]
        width = _width(draft.program, edge[1]) if learn == "vector" else ()
        if learn != "no" and width not in made:
            made[width] = _parameter(draft, skip, operand, name, factor, width)
        draft.redirect(edge, _times(draft, edge, operand, made.get(width, factor)))


def _width(program: Program, name: str) -> tuple[int, ...]:
    """The shape of a vector of a value's channels that can be multiplied with it."""
    op = program.by_name[name]
    dim = program.layouts[op.index].require_channels(f"`{name}`")
    size = op.shape[dim]
    if size is None:
        raise UsageError(f"`{name}` has no fixed number of channels for a vector of scales: learn='scalar'")
    return (size, *[1] * (len(op.shape) - 1 - dim))


def _parameter(draft: Draft, skip: Skip, operand: Node, name: str, factor: float, shape: tuple[int, ...]) -> Node:
    return draft.parameter(skip.path, name, torch.full(shape, factor), like=operand)


def _times(draft: Draft, edge: Edge, operand: Node, factor: float | Node) -> Node:
    value = operand.meta["val"]
    if not (value.is_floating_point() or value.is_complex()):
        raise UsageError(f"`{operand.name}` holds {value.dtype}, which cannot be scaled")
    return draft.call(draft.nodes[edge[0]], aten.mul.Tensor, operand, factor)
