"""Folding of batch norms, factors and linear sums into the layers before them."""

from skiplab.edit.fuse_linear import as_single_layer, fuse_into_layer
from skiplab.edit.graph_editor import GraphEditor
from skiplab.graph.program import Program


def fold(program: Program) -> Program:
    """Folds batch norms, factors and linear sums into layers: the same function with fewer layers.

    - A batch norm that is the only reader of a layer: W ← W·γ/√(σ² + ε), b ← (b − μ)·γ/√(σ² + ε) + β.
    - A factor or a constant on a layer: a number, or a stored vector with one number per channel (LayerScale, ReZero).
    - A sum whose operands all are, after that, layers of the same value with equal stride and groups and with kernels
      that fit on one grid, or the value itself, perhaps normalized or scaled. RepVGG: Ding et al. 2021,
      arXiv:2101.03697, §3.3; ACNet: Ding et al. 2019, arXiv:1908.03930, §3.3; MobileOne: Vasu et al. 2023,
      arXiv:2206.04040, §3.2.

    The largest kernel of a sum keeps its name; a new bias is named after its kernel, with `bias` for `weight`. A layer
    that something else reads too, or whose weights are shared or computed, stays unchanged.

    The result is exact up to rounding in evaluation. It trains differently, because folded norms are gone.

    Raises:
        UsageError: for a training graph, whose batch norms depend on the batch.
    """
    program.require_inference("whose batch norms depend on the batch")
    editor = GraphEditor(program)
    for node in reversed(list(editor.graph.nodes)):
        if node.op != "call_function":
            continue
        term = as_single_layer(node, editor.tensors) if node.users else None
        if term is not None:
            fuse_into_layer(editor, node, term)
        if not node.users and not node.is_impure():
            editor.graph.erase_node(node)  # frees its operands for their other readers
    return editor.finish()
