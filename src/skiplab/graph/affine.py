"""Linear layers as terms: the kernel and bias that result when norms and factors are folded into a layer."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from skiplab.graph.ops import op_info, operator_name
from skiplab.graph.torch_compat import is_mutable


@dataclass(frozen=True, eq=False)
class Term:
    """A value that is a linear layer of a source value, or the source with its channels scaled and shifted.

    Attributes:
        source: the source value.
        layer: the convolution or linear layer; None where channels are only scaled and shifted.
        kernel: the layer's, of float32 at least: (out, in / groups, …), of a transposed convolution
            (in, out / groups, …). Without a layer the factors of the channels: (channels,), or () for all.
        bias: (channels,), or () for all; None for none.
        dim: the channel dimension of the value; None where it does not matter.
        rest: the layer's arguments after its bias.
    """

    source: Node
    layer: Node | None
    kernel: Tensor
    bias: Tensor | None
    dim: int | None
    rest: tuple[Any, ...] = ()

    def scaled(self, factor: Tensor, shift: Tensor | None = None, dim: int | None = None) -> "Term | None":
        """The term times a factor, plus a shift, each () or (channels,); None if `dim` is not its channel dimension."""
        if dim is not None and self.dim not in (dim, None):
            return None
        kernel = self.kernel * (factor if self.layer is None or not factor.ndim else _spread(self, factor))
        bias = None if self.bias is None else self.bias * factor
        if shift is not None:
            bias = shift if bias is None else bias + shift
        return replace(self, kernel=kernel, bias=bias, dim=self.dim if dim is None else dim)


def layer_term(node: Node, tensors: Mapping[str, Tensor]) -> Term | None:
    """A convolution or a linear layer with weights of its own; None for anything else."""
    is_convolution = op_info(node).convolution
    if not (is_convolution or operator_name(node.target) == "linear") or node.kwargs:
        return None
    source, kernel, bias = node.args[0], *weights(node)
    if not all(n is None or (n.name in tensors and len(_readers(n, tensors)) == 1) for n in (kernel, bias)):
        return None
    weight, offset = stored(kernel, tensors), None if bias is None else stored(bias, tensors)
    rank = node.meta["val"].ndim
    if not isinstance(source, Node) or weight is None or (is_convolution and weight.ndim != rank):
        return None
    return Term(source, node, weight, offset, 1 if is_convolution else rank - 1, tuple(node.args[3:]))


def normed(norm: Node, term: Term, tensors: Mapping[str, Tensor]) -> Term | None:
    """A term after a batch norm: times γ/√(σ² + ε), plus β − μ·γ/√(σ² + ε).

    None where `norm` is no batch norm in evaluation mode, or normalizes another dimension.
    """
    arguments: tuple[Any, ...] = norm.args
    given = arguments[1:5]
    if operator_name(norm.target) != "batch_norm" or arguments[5] or arguments[3] is None:
        return None
    values = [None if node is None else stored(node, tensors) for node in given]
    if any(value is None and node is not None for value, node in zip(values, given, strict=True)):
        return None
    gamma, beta, mean, variance = values
    assert mean is not None
    assert variance is not None
    factor = torch.rsqrt(variance + arguments[7]) * (1 if gamma is None else gamma)
    return term.scaled(factor, (0 if beta is None else beta) - mean * factor, dim=1)


def weights(layer: Node) -> tuple[Any, Any]:
    """Nodes of kernel and bias."""
    return layer.args[1], layer.args[2] if len(layer.args) > 2 else None


def stored(node: Node, tensors: Mapping[str, Tensor]) -> Tensor | None:
    """The value of a parameter or buffer, perhaps reshaped, in float32 or wider; None where something writes to it."""
    if node.name in tensors:
        tensor = tensors[node.name].detach()
        written = any(is_mutable(reader.target) for reader in node.users)
        real = tensor.is_floating_point() and not written
        return tensor.to(torch.promote_types(tensor.dtype, torch.float32)) if real else None
    info, read = op_info(node), node.all_input_nodes
    if not info.reshape or info.cast or len(read) != 1:
        return None
    before = stored(read[0], tensors)
    return None if before is None else node.target(before, *node.args[1:], **node.kwargs)  # type: ignore[operator]


def _readers(placeholder: Node, tensors: Mapping[str, Tensor]) -> list[Node]:
    """All nodes that read a tensor, under any of its names."""
    tensor = tensors[placeholder.name]
    same = (node for node in placeholder.graph.find_nodes(op="placeholder") if tensors.get(node.name) is tensor)
    return [reader for node in same for reader in node.users]


def _spread(term: Term, factor: Tensor) -> Tensor:
    """A factor (channels,) in a shape that multiplies the kernel's output channels."""
    ones = (1,) * (term.kernel.ndim - 2)
    assert term.layer is not None
    if not op_info(term.layer).transposed:
        return factor.reshape(-1, 1, *ones)
    groups = term.rest[3] if len(term.rest) > 3 else 1
    inputs = term.kernel.shape[0]
    return factor.reshape(groups, 1, -1).expand(-1, inputs // groups, -1).reshape(inputs, -1, *ones)
