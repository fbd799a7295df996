"""Removal of shortcuts, which leaves the plain network, and of branches, which removes blocks."""

from torch.fx import Node

from skiplab.analysis.edges import branch_edges, shortcut_edges
from skiplab.analysis.skips import Skips
from skiplab.edit.graph_editor import GraphEditor
from skiplab.graph.ops import op_info
from skiplab.graph.program import Program


def remove_shortcut(program: Program, skips: Skips) -> Program:
    """Removes shortcuts: each merge keeps its branch alone, and a concatenation gets zeros for the shortcut.

    Without all of its shortcuts a network is the plain network. Tensors that only the shortcut used, such as the
    weights of a projection, are removed too.

    Raises:
        StaleSkip: for skips of another program.
        UsageError: for the cell state of a fused recurrent operator; where a merge would lose all its operands.
    """
    skips.check(program).require_merges()
    editor = GraphEditor(program)
    editor.remove_operands(edge for skip in skips for edge in shortcut_edges(program, skip))
    return editor.finish()


def remove_branch(program: Program, skips: Skips) -> Program:
    """Removes blocks: each merge keeps its shortcut alone, and a concatenation gets zeros for the branch.

    The network computes what `measure.lesion` measures, without the operators, parameters and buffers of the blocks. A
    shortcut that changes the shape (a projection) stays, since what follows expects its shape. Huang et al. 2016,
    arXiv:1603.09382, §3, drop blocks at random like this; Veit et al. 2016, arXiv:1605.06431, §4, delete them.

    Raises:
        StaleSkip: for skips of another program.
        UsageError: for the cell state of a fused recurrent operator; where a merge would lose all its operands.
    """
    skips.check(program).require_merges()
    editor = GraphEditor(program)
    editor.remove_operands(dict.fromkeys(edge for skip in skips for edge in branch_edges(program, skip)))
    for node in list(editor.graph.nodes):
        if _repeats_activation(node):  # after a merge that passes on the output of the same activation
            node.replace_all_uses_with(node.args[0])  # type: ignore[arg-type]
    return editor.finish()


def _repeats_activation(node: Node) -> bool:
    """Whether a node applies an idempotent activation to the output of the same activation."""
    before = node.args[0] if node.args else None
    same = isinstance(before, Node) and (before.target, before.args[1:]) == (node.target, node.args[1:])
    return same and op_info(node).idempotent
