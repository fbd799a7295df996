"""Batch norm in evaluation mode folded into the layer before it."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node
from torch.nn.utils import fuse_conv_bn_weights

from skiplab.ops import operator_name

_FOLLOWS = frozenset("conv1d conv2d conv3d linear".split())


def fold(graph: Graph, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Folds each batch norm that alone reads a convolution or a linear layer: W ← W·γ/√(σ² + ε), and b likewise.

    `graph` is changed in place, `tensors` (by placeholder name) is not. The layer gets a placeholder for its bias
    where it had none, and the batch norm becomes an alias of it: nodes keep their names, so that records of skips
    stay valid. A layer whose weights are computed, or shared with another layer, is left as it is.

    Returns:
        The tensors that are new, by placeholder name.
    """
    first, new = next(iter(graph.nodes)), {}
    for norm in list(graph.nodes):
        if operator_name(norm.target) != "batch_norm" or not _folds(norm, tensors):
            continue
        layer, *statistics, _, _, epsilon = norm.args[:8]
        kernel, bias = _weights(layer)
        gamma, beta, mean, variance, old = (None if n is None else tensors[n.name] for n in (*statistics, bias))
        assert mean is not None
        assert variance is not None
        weights = fuse_conv_bn_weights(tensors[kernel.name], old, mean, variance, epsilon, gamma, beta)
        if bias is None:
            with graph.inserting_before(first):
                bias = graph.placeholder(f"{layer.name}_bias")
            bias.meta["lifted"] = True
            layer.args = (layer.args[0], kernel, bias, *layer.args[3:])
        new |= {node.name: weight.detach() for node, weight in zip((kernel, bias), weights, strict=True)}
        norm.target, norm.args = torch.ops.aten.alias.default, (layer,)
    return new


def _folds(norm: Node, tensors: Mapping[str, Tensor]) -> bool:
    arguments: tuple[Any, ...] = norm.args
    layer, gamma, beta, mean, variance, training = arguments[:6]
    if training or mean is None or operator_name(layer.target) not in _FOLLOWS or len(layer.users) > 1:
        return False
    if operator_name(layer.target) == "linear" and layer.meta["val"].ndim != 2:
        return False  # its features are the last dimension, those of the norm the second
    kernel, bias = _weights(layer)
    own = [n for n in (kernel, bias) if n is not None]
    stored = all(n is None or n.name in tensors for n in (*own, gamma, beta, mean, variance))
    return stored and all(len(n.users) == 1 for n in own)


def _weights(layer: Node) -> tuple[Any, Any]:
    """Placeholders of kernel and bias."""
    return layer.args[1], layer.args[2] if len(layer.args) > 2 else None
