"""Stochastic depth: in training, whole branches are left out at random."""

import torch
from torch.fx import Node

from skiplab.analysis.edges import branch_edges
from skiplab.analysis.skips import Skips
from skiplab.edit.graph_editor import Draft
from skiplab.errors import UsageError
from skiplab.graph.interpreter import Edge
from skiplab.graph.program import Program

aten = torch.ops.aten


def drop_path(program: Program, skips: Skips, p: float, linear: bool = True) -> Program:
    """In training each sample's branch is zero with a probability, and else divided by 1 minus it; never in evaluation.

    Samples lie where `skiplab.graph.layout` finds them. Each operand of a merge is dropped by itself.

    Huang et al. 2016, Deep Networks with Stochastic Depth, arXiv:1603.09382, §3, by sample instead of by batch and
    scaled in training instead of in testing, as is usual today.

    Args:
        program: the network.
        skips: those whose branches may be dropped.
        p: the probability, in [0, 1).
        linear: of the last skip alone; the l-th of L has p · l/L (equation 4). Otherwise of every one.

    Raises:
        StaleSkip: for skips of another program.
        UsageError: for a p out of range; for the cell state of a fused recurrent operator; for a branch that has no
            dimension of samples.
    """
    skips.check(program).require_merges()
    if not 0 <= p < 1:
        raise UsageError(f"p={p}: give a probability of at least 0 and below 1")
    draft = Draft(program)
    place = {merge: i for i, merge in enumerate(dict.fromkeys(skip.merge for skip in skips), start=1)}
    places: dict[Edge, int] = {}
    for skip in skips:
        for edge in branch_edges(program, skip):
            places.setdefault(edge, place[skip.merge])
    for edge, at in places.items():
        share = at / len(place) if linear else 1.0
        draft.redirect(edge, _dropped(draft, edge, p * share))
    return draft.done()


def _dropped(draft: Draft, edge: Edge, p: float) -> Node:
    """Dropout of whole features of a batch of one, in which the samples stand where features do."""
    reader, operand = (draft.nodes[name] for name in edge)
    op = draft.program.by_name[edge[1]]
    layout = draft.program.layouts[op.index]
    if layout.samples is None or layout.folded != (1, 1):
        raise UsageError(
            f"the branch `{op.name}` at `{op.module}` has shape {op.shape}, in which no dimension is that of the "
            "samples: leave its skip out"
        )
    dim = layout.samples
    first = operand if dim == 0 else draft.call(reader, aten.transpose.int, operand, 0, dim)
    outer = draft.call(reader, aten.unsqueeze.default, first, 0)
    kept = draft.call(reader, aten.feature_dropout.default, outer, p, draft.program.training)
    inner = draft.call(reader, aten.squeeze.dim, kept, 0)
    return inner if dim == 0 else draft.call(reader, aten.transpose.int, inner, 0, dim)
