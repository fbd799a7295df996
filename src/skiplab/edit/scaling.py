"""Scale factors on shortcuts and branches: constants, or learned scalars and vectors."""

import math
from collections.abc import Iterable
from typing import Literal

import torch
from torch.fx import Node

from skiplab.analysis.edges import branch_edges, into, shortcut_edges
from skiplab.analysis.merges import merge_at
from skiplab.analysis.skips import Skip, Skips
from skiplab.edit.graph_editor import GraphEditor
from skiplab.errors import UsageError
from skiplab.graph.interpreter import Edge
from skiplab.graph.program import Program

Learn = Literal["no", "scalar", "vector"]
aten = torch.ops.aten


def scale(
    program: Program, skips: Skips, shortcut: float | None = None, branch: float | None = None, learn: Learn = "no"
) -> Program:
    """Multiplies the shortcut, the branch, or both by a factor before the merge.

    Args:
        program: the network.
        skips: the skips to scale. A value that enters a merge as the branch of several skips (a dense block) is scaled
            once.
        shortcut: factor on the shortcut; None leaves it unchanged.
        branch: factor on the branch; None leaves it unchanged.
        learn: constant factors ("no"), or parameters `shortcut_scale` and `branch_scale` that start at the factors:
            one number ("scalar") or one per channel ("vector"). They belong to the module that holds the merge.

    Raises:
        StaleSkip: for skips of another program.
        UsageError: without any factor; for the cell state of a fused recurrent operator; for values that are neither
            real nor complex numbers.
    """
    skips.check(program).require_merges()
    if learn not in ("no", "scalar", "vector"):
        raise UsageError(f"learn={learn!r}: choose no, scalar or vector")
    if shortcut is None and branch is None:
        raise UsageError("there is no factor to scale by: give one for the shortcut, the branch or both")
    for factor in (shortcut, branch):
        if factor is not None and not math.isfinite(factor):
            raise UsageError(f"a factor is {factor}: give a finite number")
    editor = GraphEditor(program)
    done: set[Edge] = set()
    for skip in skips:
        for way, factor, edges in (
            ("shortcut", shortcut, shortcut_edges(program, skip)),
            ("branch", branch, branch_edges(program, skip)),
        ):
            left = [edge for edge in edges if edge not in done]
            if factor is not None and left:
                done.update(left)
                _scale_edges(editor, skip, left, f"{way}_scale", factor, learn)
    return editor.finish()


def rezero(program: Program, skips: Skips) -> Program:
    """Multiplies each branch by a learned scalar that starts at zero: x + αF(x).

    Bachlechner et al. 2021, ReZero is All You Need, arXiv:2003.04887, §3. De and Smith 2020, arXiv:2002.10444, §4,
    call it SkipInit where it replaces batch norm.
    """
    return scale(program, skips, branch=0.0, learn="scalar")


def skip_init(program: Program, skips: Skips) -> Program:
    """SkipInit: the same edit as `rezero`, under the name that De and Smith give it."""
    return rezero(program, skips)


def layer_scale(program: Program, skips: Skips, start: float = 1e-5) -> Program:
    """Multiplies each branch by a learned vector with one number per channel: x + λ⊙F(x).

    Touvron et al. 2021, Going Deeper with Image Transformers, arXiv:2103.17239, §2.

    Args:
        program: the network.
        skips: the skips to scale.
        start: initial value of the vector; the paper uses 0.1 up to depth 18, 1e-5 up to 24, and 1e-6 above.
    """
    return scale(program, skips, branch=start, learn="vector")


def average(program: Program, skips: Skips) -> Program:
    """Turns each sum into a mean: every operand of the merge is divided by their number.

    Raises:
        StaleSkip: for skips of another program.
        UsageError: for a skip that joins by concatenation.
    """
    skips.check(program).require_merges()
    editor = GraphEditor(program)
    for name in dict.fromkeys(skip.merge for skip in skips):
        merge = merge_at(program, name)
        if merge.op.kind != "merge" or any(skip.combine == "concat" for skip in skips if skip.merge == name):
            raise UsageError(f"`{merge.op.module or name}` concatenates, which has no mean: see concat_to_add")
        for edge in dict.fromkeys(into(program, merge)):
            operand = editor.nodes[edge[1]]
            editor.redirect(edge, _times(editor, edge, operand, 1 / len(merge.operands)))
    return editor.finish()


def _scale_edges(
    editor: GraphEditor, skip: Skip, edges: Iterable[Edge], name: str, factor: float, learn: Learn
) -> None:
    """Multiplies the values on all these edges by one factor."""
    if learn == "no" and factor == 1:
        return
    made: dict[object, Node] = {}  # one scalar, or one vector for each width
    for edge in edges:
        operand = editor.nodes[edge[1]]
        width = _width(editor.program, edge[1]) if learn == "vector" else ()
        if learn != "no" and width not in made:
            made[width] = editor.parameter(skip.path, name, torch.full(width, factor), like=operand)
        editor.redirect(edge, _times(editor, edge, operand, made.get(width, factor)))


def _width(program: Program, name: str) -> tuple[int, ...]:
    """The shape of one number per channel of a value, for broadcasting."""
    op = program.by_name[name]
    dim = program.layouts[op.index].require_channels(f"`{name}`")
    size = op.shape[dim]
    if size is None:
        raise UsageError(
            f"`{name}` has no fixed number of channels, which a vector of scales needs: use learn='scalar'"
        )
    return (size, *[1] * (len(op.shape) - 1 - dim))


def _times(editor: GraphEditor, edge: Edge, operand: Node, factor: float | Node) -> Node:
    value = operand.meta["val"]
    if not (value.is_floating_point() or value.is_complex()):
        raise UsageError(f"`{operand.name}` holds {value.dtype}, which cannot be scaled")
    return editor.call(editor.nodes[edge[0]], aten.mul.Tensor, operand, factor)
