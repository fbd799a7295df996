"""Concatenations turned into sums and sums into concatenations, with the projections that keep the function."""

from typing import Any

import torch
from torch.fx import Node

from skiplab.analysis.edges import into
from skiplab.analysis.merges import merge_at
from skiplab.analysis.skips import Skip, Skips
from skiplab.edit.graph_editor import Draft
from skiplab.edit.new_layers import as_kernel, can_project, projection
from skiplab.errors import UsageError
from skiplab.graph.program import Program

aten = torch.ops.aten


def concat_to_add(program: Program, skips: Skips) -> Program:
    """Concatenations become sums: each operand goes through a 1×1 convolution to the width that what follows expects.

    At first these are embeddings, which put an operand's channels where the concatenation had them and zeros elsewhere,
    so that the function is the same: [a, b] = [I 0]ᵀa + [0 I]ᵀb. Sums instead of concatenations make of a U-Net
    (Ronneberger et al. 2015, arXiv:1505.04597) a LinkNet (Chaurasia and Culurciello 2017, arXiv:1707.03718).

    The new kernels are parameters `projection_weight` of the module in which the merge stands, numbered in order of
    the operands: (channels of all operands, channels of its own, 1, …), without the ones where channels come last and
    the projection is a linear layer.

    Raises:
        StaleSkip: for skips of another program.
        UsageError: for a merge that is not `torch.cat` along the channels; for the cell state of a fused recurrent
            operator.
    """
    skips.check(program).require_merges()
    draft = Draft(program)
    for skip in _one_a_merge(skips):
        node = draft.nodes[skip.merge]
        if node.target is not aten.cat.default:
            raise UsageError(f"`{skip.id}` ends in `{_target(program, skip)}`, which is no `torch.cat`: leave it out")
        (dim, total), shape = _channels(program, skip), program.by_name[skip.merge].shape
        parts: Any = node.args[0]
        along: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
        if along % node.meta["val"].ndim != dim:
            raise UsageError(
                f"`{skip.id}` concatenates {shape} along dimension {along}, and the channels are dimension {dim}: "
                "a projection works on channels alone, so leave it out"
            )
        widths = [part.meta["val"].shape[dim] for part in parts]
        rows = torch.eye(total).split(widths, dim=1)
        values = [_projected(draft, skip, node, part, weight) for part, weight in zip(parts, rows, strict=True)]
        value = values[0]
        for other in values[1:]:
            value = draft.call(node, aten.add.Tensor, value, other)
        draft.replace(node, value)
    return draft.done()


def add_to_concat(program: Program, skips: Skips) -> Program:
    """Sums become concatenations along the channels, which a 1×1 convolution brings back to the width of the sum.

    At first it adds what the sum did, [I I …], so that the function is the same. DenseNet's connections instead of
    ResNet's: Huang et al. 2017, arXiv:1608.06993, §3.

    The new kernel is the parameter `projection_weight` of the module in which the merge stands: (channels, operands ·
    channels, 1, …), without the ones where channels come last and the projection is a linear layer.

    Raises:
        StaleSkip: for skips of another program.
        UsageError: for a merge that is no sum of values of one shape; for the cell state of a fused recurrent operator.
    """
    skips.check(program).require_merges()
    draft = Draft(program)
    for skip in _one_a_merge(skips):
        node = draft.nodes[skip.merge]
        edges = into(program, merge_at(program, skip.merge))
        if any(draft.nodes[reader].target is not aten.add.Tensor for reader, _ in edges):
            raise UsageError(f"`{skip.id}` ends in `{_target(program, skip)}`, which is no sum: leave it out")
        dim, width = _channels(program, skip)
        parts = [_present(draft, edge) for edge in edges]
        shapes = [program.by_name[operand].shape for _, operand in edges]
        if len(set(shapes)) > 1 or len({part.meta["val"].dtype for part in parts}) > 1:
            raise UsageError(
                f"`{skip.id}` adds values of shapes {', '.join(map(str, shapes))}, and only equal ones of one type can "
                "be concatenated: leave it out"
            )
        joined = draft.call(node, aten.cat.default, parts, dim)
        value = _projected(draft, skip, node, joined, torch.eye(width).repeat(1, len(parts)))
        draft.replace(node, value)
    return draft.done()


def _one_a_merge(skips: Skips) -> list[Skip]:
    return list({skip.merge: skip for skip in reversed(skips)}.values())[::-1]


def _target(program: Program, skip: Skip) -> str:
    return program.by_name[skip.merge].target


def _present(draft: Draft, edge: tuple[str, str]) -> Node:
    """What a merge reads where it read an operand in the program."""
    program, (reader, operand) = draft.program, edge
    old, new = program.nodes[reader].all_input_nodes, draft.nodes[reader].all_input_nodes
    return new[old.index(program.nodes[operand])]


def _channels(program: Program, skip: Skip) -> tuple[int, int]:
    """The dimension of a merge's channels, and their number."""
    merge = program.by_name[skip.merge]
    dim = program.layouts[merge.index].require_channels(f"`{skip.id}`")
    size = merge.shape[dim]
    if size is None or not can_project(len(merge.shape), dim):
        raise UsageError(
            f"`{skip.id}`: a projection needs a fixed number of channels in dimension 1 or last, and the value at its "
            f"merge {merge.shape} has them in {dim}: leave it out"
        )
    return dim, size


def _projected(draft: Draft, skip: Skip, before: Node, value: Node, weight: torch.Tensor) -> Node:
    """A value through a 1×1 convolution, or a linear layer, that starts as a matrix (out, in)."""
    rank, dim = value.meta["val"].ndim, _channels(draft.program, skip)[0]
    if not value.meta["val"].is_floating_point():
        raise UsageError(f"`{skip.id}` joins {value.meta['val'].dtype}, which no layer can project: leave it out")
    stored = draft.parameter(skip.path, "projection_weight", as_kernel(weight, rank, dim).clone(), like=value)
    return draft.call(before, projection(rank, dim), value, stored)
