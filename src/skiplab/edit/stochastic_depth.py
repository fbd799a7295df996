"""Stochastic depth: branches are dropped at random in training."""

import torch
from torch.fx import Node

from skiplab.analysis.edges import branch_edges
from skiplab.analysis.skips import Skips
from skiplab.edit.graph_editor import GraphEditor
from skiplab.errors import UsageError
from skiplab.graph.interpreter import Edge
from skiplab.graph.program import Program

aten = torch.ops.aten


def drop_path(program: Program, skips: Skips, p: float, linear: bool = True) -> Program:
    """Drops branches at random in training (stochastic depth); evaluation stays unchanged.

    The branch of each sample is zero with a probability, and otherwise divided by 1 minus that probability. Samples are
    where `skiplab.graph.layout` finds them. Each operand of a merge is dropped independently.

    Huang et al. 2016, Deep Networks with Stochastic Depth, arXiv:1603.09382, §3, per sample instead of per batch, and
    scaled in training instead of in testing, as is usual today.

    Args:
        program: the network.
        skips: the skips whose branches may be dropped.
        p: probability of dropping a branch, in [0, 1).
        linear: whether the probability rises linearly to p: skip l of L has p·l/L (equation 4). Otherwise all have p.

    Raises:
        StaleSkip: for skips of another program.
        UsageError: for a p out of range; for the cell state of a fused recurrent operator; for a branch that has no
            dimension of samples.
    """
    skips.check(program).require_merges()
    if not 0 <= p < 1:
        raise UsageError(f"p={p}: give a probability of at least 0 and below 1")
    editor = GraphEditor(program)
    place = {merge: i for i, merge in enumerate(dict.fromkeys(skip.merge for skip in skips), start=1)}
    places: dict[Edge, int] = {}
    for skip in skips:
        for edge in branch_edges(program, skip):
            places.setdefault(edge, place[skip.merge])
    for edge, at in places.items():
        share = at / len(place) if linear else 1.0
        editor.redirect(edge, _drop(editor, edge, p * share))
    return editor.finish()


def _drop(editor: GraphEditor, edge: Edge, p: float) -> Node:
    """The value after dropout of whole features of a batch of one, with the samples as features."""
    reader, operand = (editor.nodes[name] for name in edge)
    dim = _sample_dimension(editor.program, edge[1])
    first = operand if dim == 0 else editor.call(reader, aten.transpose.int, operand, 0, dim)
    outer = editor.call(reader, aten.unsqueeze.default, first, 0)
    kept = editor.call(reader, aten.feature_dropout.default, outer, p, editor.program.training)
    inner = editor.call(reader, aten.squeeze.dim, kept, 0)
    return inner if dim == 0 else editor.call(reader, aten.transpose.int, inner, 0, dim)


def _sample_dimension(program: Program, name: str) -> int:
    """The dimension that holds the samples and nothing else."""
    op = program.by_name[name]
    layout = program.layouts[op.index]
    if layout.samples is None or layout.folded != (1, 1):
        raise UsageError(
            f"the branch `{name}` at `{op.module}` has shape {op.shape}, in which no dimension holds only the samples: "
            "leave its skip out"
        )
    return layout.samples
