"""Conversion of concatenations into sums and of sums into concatenations, by projections that keep the function."""

from typing import Any

import torch
from torch.fx import Node

from skiplab.analysis.edges import into
from skiplab.analysis.merges import merge_at
from skiplab.analysis.skips import Skip, Skips
from skiplab.edit.graph_editor import GraphEditor
from skiplab.edit.new_layers import as_kernel, can_project, projection
from skiplab.errors import UsageError
from skiplab.graph.program import Program

aten = torch.ops.aten


def concat_to_add(program: Program, skips: Skips) -> Program:
    """Turns concatenations into sums: each operand gets a 1×1 projection to the width of the concatenation.

    The projections start as embeddings, which keep the function: [a, b] = [I 0]ᵀa + [0 I]ᵀb. Sums instead of
    concatenations turn a U-Net (Ronneberger et al. 2015, arXiv:1505.04597) into a LinkNet (Chaurasia and Culurciello
    2017, arXiv:1707.03718).

    The new kernels are parameters `projection_weight` of the module that holds the merge, numbered in the order of the
    operands. Their shape is (channels of all operands, channels of the operand, 1, …), or without the ones where
    channels come last and the projection is a linear layer.

    Raises:
        StaleSkip: for skips of another program.
        UsageError: for a merge that is not `torch.cat` along the channels; for the cell state of a fused recurrent
            operator.
    """
    skips.check(program).require_merges()
    editor = GraphEditor(program)
    for skip in _one_per_merge(skips):
        node = editor.nodes[skip.merge]
        if node.target is not aten.cat.default:
            raise UsageError(f"`{skip.id}` ends in `{_target(program, skip)}`, which is not `torch.cat`: leave it out")
        (dim, total), shape = _channel_dimension(program, skip), program.by_name[skip.merge].shape
        parts: Any = node.args[0]
        along: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
        if along % node.meta["val"].ndim != dim:
            raise UsageError(
                f"`{skip.id}` concatenates {shape} along dimension {along}, and the channels are dimension {dim}: "
                "a projection mixes only channels, so leave it out"
            )
        widths = [part.meta["val"].shape[dim] for part in parts]
        rows = torch.eye(total).split(widths, dim=1)
        values = [_project(editor, skip, node, part, weight) for part, weight in zip(parts, rows, strict=True)]
        value = values[0]
        for other in values[1:]:
            value = editor.call(node, aten.add.Tensor, value, other)
        editor.replace(node, value)
    return editor.finish()


def add_to_concat(program: Program, skips: Skips) -> Program:
    """Turns sums into concatenations along the channels, followed by a 1×1 projection to the width of the sum.

    The projection starts as [I I …], which keeps the function. The result has DenseNet's connections instead of
    ResNet's: Huang et al. 2017, arXiv:1608.06993, §3.

    The new kernel is the parameter `projection_weight` of the module that holds the merge. Its shape is (channels,
    operands · channels, 1, …), or without the ones where channels come last and the projection is a linear layer.

    Raises:
        StaleSkip: for skips of another program.
        UsageError: for a merge that is no sum of values of one shape; for the cell state of a fused recurrent operator.
    """
    skips.check(program).require_merges()
    editor = GraphEditor(program)
    for skip in _one_per_merge(skips):
        node = editor.nodes[skip.merge]
        edges = into(program, merge_at(program, skip.merge))
        if any(editor.nodes[reader].target is not aten.add.Tensor for reader, _ in edges):
            raise UsageError(f"`{skip.id}` ends in `{_target(program, skip)}`, which is no sum: leave it out")
        dim, width = _channel_dimension(program, skip)
        parts = [_current_operand(editor, edge) for edge in edges]
        shapes = [program.by_name[operand].shape for _, operand in edges]
        if len(set(shapes)) > 1 or len({part.meta["val"].dtype for part in parts}) > 1:
            raise UsageError(
                f"`{skip.id}` adds values of shapes {', '.join(map(str, shapes))}, and only values of one shape and "
                "dtype can be concatenated: leave it out"
            )
        joined = editor.call(node, aten.cat.default, parts, dim)
        value = _project(editor, skip, node, joined, torch.eye(width).repeat(1, len(parts)))
        editor.replace(node, value)
    return editor.finish()


def _one_per_merge(skips: Skips) -> list[Skip]:
    return list({skip.merge: skip for skip in reversed(skips)}.values())[::-1]


def _target(program: Program, skip: Skip) -> str:
    return program.by_name[skip.merge].target


def _current_operand(editor: GraphEditor, edge: tuple[str, str]) -> Node:
    """The node that a merge reads now in place of an operand of the program."""
    program, (reader, operand) = editor.program, edge
    old, new = program.nodes[reader].all_input_nodes, editor.nodes[reader].all_input_nodes
    return new[old.index(program.nodes[operand])]


def _channel_dimension(program: Program, skip: Skip) -> tuple[int, int]:
    """The dimension of the channels of a merge, and their number."""
    merge = program.by_name[skip.merge]
    dim = program.layouts[merge.index].require_channels(f"`{skip.id}`")
    size = merge.shape[dim]
    if size is None or not can_project(len(merge.shape), dim):
        raise UsageError(
            f"`{skip.id}`: a projection needs a fixed number of channels in dimension 1 or last, and the value at its "
            f"merge {merge.shape} has them in {dim}: leave it out"
        )
    return dim, size


def _project(editor: GraphEditor, skip: Skip, before: Node, value: Node, weight: torch.Tensor) -> Node:
    """A value after a 1×1 convolution, or a linear layer, that starts as a matrix (out, in)."""
    rank, dim = value.meta["val"].ndim, _channel_dimension(editor.program, skip)[0]
    if not value.meta["val"].is_floating_point():
        raise UsageError(f"`{skip.id}` joins {value.meta['val'].dtype}, which no layer can project: leave it out")
    stored = editor.parameter(skip.path, "projection_weight", as_kernel(weight, rank, dim).clone(), like=value)
    return editor.call(before, projection(rank, dim), value, stored)
