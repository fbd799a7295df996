"""What is one layer in disguise as that layer: batch norms, factors, and sums of linear ways."""

from skiplab.edit.fuse_linear import as_layer, put
from skiplab.edit.graph_editor import Draft
from skiplab.graph.program import Program


def fold(program: Program) -> Program:
    """The same function with fewer layers: each linear sum becomes one convolution, or one linear layer.

    - A batch norm that alone reads a layer: W ← W·γ/√(σ² + ε), b ← (b − μ)·γ/√(σ² + ε) + β.
    - A factor or a constant on a layer: a number, or a stored vector with one number a channel (LayerScale, ReZero).
    - A sum each of whose operands is, after that, a layer of the same value, with the same stride and groups and
      kernels that can be laid one upon the other; or that value itself, perhaps normalised or scaled. RepVGG: Ding et
      al. 2021, arXiv:2101.03697, §3.3; ACNet: Ding et al. 2019, arXiv:1908.03930, §3.3; MobileOne: Vasu et al. 2023,
      arXiv:2206.04040, §3.2.

    The largest kernel of a sum keeps its name; a bias that is new is called like its kernel, with `bias` for `weight`.
    A layer that something else reads too, or whose weights are shared or computed, stays as it is.

    What is exact, but for rounding, is evaluation: where a norm was folded there is none any more, so the result
    trains without it, and differently.

    Raises:
        UsageError: for a training graph, whose batch norms depend on the batch.
    """
    program.require_inference("whose batch norms depend on the batch")
    draft = Draft(program)
    for node in reversed(list(draft.graph.nodes)):
        if node.op != "call_function":
            continue
        term = as_layer(node, draft.tensors) if node.users else None
        if term is not None:
            put(draft, node, term)
        if not node.users and not node.is_impure():
            draft.graph.erase_node(node)  # which then reads nothing any more
    return draft.done()
