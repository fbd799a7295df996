"""One of the two ways of a skip connection goes: the shortcut, which leaves the plain twin, or the branch."""

from torch.fx import Node

from skiplab.analysis.edges import branch_edges, shortcut_edges
from skiplab.analysis.skips import Skips
from skiplab.edit.graph_editor import Draft
from skiplab.graph.ops import op_info
from skiplab.graph.program import Program


def remove_shortcut(program: Program, skips: Skips) -> Program:
    """The plain twin: each merge gets what its branch gives alone; a concatenation gets zeros in the shortcut's place.

    What only the shortcut needed, such as the weights of a projection, goes with it.

    Raises:
        StaleSkip: for skips of another program.
        UsageError: for the cell state of a fused recurrent operator; where a merge would lose all its operands.
    """
    skips.check(program).require_merges()
    draft = Draft(program)
    draft.without(edge for skip in skips for edge in shortcut_edges(program, skip))
    return draft.done()


def remove_branch(program: Program, skips: Skips) -> Program:
    """The blocks go: each merge gets what its shortcut gives alone, and in a concatenation zeros for the branch.

    The network computes what `measure.lesion` measures, without the work, the parameters and the buffers that
    nothing needs any more. A shortcut that changes the shape (a projection) stays, since what follows expects its
    shape. Huang et al. 2016, arXiv:1603.09382, §3, drop blocks so at random; Veit et al. 2016, arXiv:1605.06431, §4.

    Raises:
        StaleSkip: for skips of another program.
        UsageError: for the cell state of a fused recurrent operator; where a merge would lose all its operands.
    """
    skips.check(program).require_merges()
    draft = Draft(program)
    draft.without(dict.fromkeys(edge for skip in skips for edge in branch_edges(program, skip)))
    for node in list(draft.graph.nodes):
        if _is_again(node):  # the activation after a merge whose shortcut comes from just such a one
            node.replace_all_uses_with(node.args[0])  # type: ignore[arg-type]
    return draft.done()


def _is_again(node: Node) -> bool:
    """Whether a node is an activation of what that very activation gave, which changes nothing."""
    before = node.args[0] if node.args else None
    same = isinstance(before, Node) and (before.target, before.args[1:]) == (node.target, node.args[1:])
    return same and op_info(node).idempotent
