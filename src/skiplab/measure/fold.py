"""Batch norm in evaluation mode folded into the layer before it."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.fx import Graph, Node

from skiplab.graph.affine import layer_term, normed, weights
from skiplab.graph.ops import operator_name


def fold(graph: Graph, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Folds each batch norm that is the only reader of a convolution or linear layer: W ← W·γ/√(σ² + ε), b likewise.

    Changes `graph` in place, and not `tensors` (by placeholder name). A layer without bias gets a placeholder for
    one, and the batch norm becomes an alias of the layer: nodes keep their names, so that records of skips stay
    valid. Layers whose weights are computed, or shared with another layer, are not changed.

    Returns:
        The new tensors, by placeholder name.
    """
    first, new = next(iter(graph.nodes)), {}
    for norm in list(graph.nodes):
        layer = norm.args[0] if operator_name(norm.target) == "batch_norm" else None
        before = layer_term(layer, tensors) if isinstance(layer, Node) and len(layer.users) == 1 else None
        whole = None if before is None else normed(norm, before, tensors)
        if layer is None or whole is None:
            continue
        kernel, bias = weights(layer)
        if bias is None:
            with graph.inserting_before(first):
                bias = graph.placeholder(f"{layer.name}_bias")
            bias.meta["lifted"] = True
            layer.args = (layer.args[0], kernel, bias, *layer.args[3:])
        assert whole.bias is not None
        new |= {node.name: w.to(tensors[kernel.name].dtype) for node, w in ((kernel, whole.kernel), (bias, whole.bias))}
        norm.target, norm.args = torch.ops.aten.alias.default, (layer,)
    return new
