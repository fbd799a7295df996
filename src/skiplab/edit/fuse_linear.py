"""Norms, factors and sums of layers of one value, fused into one convolution or linear layer."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from skiplab.edit.graph_editor import GraphEditor
from skiplab.edit.kernel_geometry import KernelGeometry, enclosing_geometry, geometry_of
from skiplab.graph.affine import Term, layer_term, normed, stored, weights
from skiplab.graph.functionalize import form
from skiplab.graph.ops import is_scale, op_info, operator_name

aten = torch.ops.aten
Tensors = Mapping[str, Tensor]


def as_single_layer(node: Node, tensors: Tensors) -> Term | None:
    """The one layer that a node is equivalent to; None where there is none, or where the node is that layer."""
    term = None if layer_term(node, tensors) else _term(node, tensors)
    return None if term is None or term.layer is None else term


def fuse_into_layer(editor: GraphEditor, node: Node, term: Term) -> None:
    """Gives the layer of a term the term's kernel and bias, and redirects the readers of the node to the layer."""
    layer = term.layer
    assert layer is not None
    assert term.dim is not None
    kernel, bias = weights(layer)
    editor.replace_tensor(kernel.name, term.kernel, rewritten=True)
    offset = None if term.bias is None else term.bias.expand(layer.meta["val"].shape[term.dim])
    if bias is not None and offset is not None:
        editor.replace_tensor(bias.name, offset, rewritten=True)
    elif offset is not None:
        path, _, name = editor.name_of(kernel).rpartition(".")
        named = name.replace("weight", "bias") if "weight" in name else f"{name}_bias"
        bias = editor.parameter(path, named, offset, like=layer)
    if len(term.rest) > 1 and not isinstance(term.rest[1], str):
        layer.target = _with_numeric_padding(layer)
    layer.args = (term.source, kernel, *([bias] if bias is not None or term.rest else []), *term.rest)
    editor.replace(node, layer)


def _with_numeric_padding(layer: Node) -> Any:
    """The overload of a layer's operator that takes its padding as numbers."""
    name, info = operator_name(layer.target), op_info(layer)
    return getattr(aten, name).default if info.convolution and not info.transposed else layer.target


def _term(node: Node, tensors: Tensors) -> Term | None:
    """A node as a term; None where it is no layer, and not made of one value by norms, factors and sums."""
    if node.op != "call_function" or not isinstance(node.meta.get("val"), Tensor):
        return None
    if operator_name(node.target) == "batch_norm" and isinstance(node.args[0], Node):
        return normed(node, _operand(node.args[0], tensors), tensors)
    # Capturing leaves subtractions of numbers alone: it turns any other into a sum.
    if is_scale(operator_name(node.target)) or node.target is aten.sub.Tensor:
        return _scaled_or_shifted(node, tensors)
    if node.target is aten.add.Tensor and not node.kwargs:
        operands: tuple[Any, ...] = node.args
        a, b = operands
        alike = isinstance(a, Node) and isinstance(b, Node) and form(a) == form(b) == form(node)
        return _sum(node, _operand(a, tensors), _operand(b, tensors)) if alike else _scaled_or_shifted(node, tensors)
    return layer_term(node, tensors)


def _operand(node: Node, tensors: Tensors) -> Term:
    """The term of a node that has one reader; otherwise the value itself, times 1."""
    found = _term(node, tensors) if len(node.users) == 1 else None
    return found or Term(node, None, torch.ones((), device=node.meta["val"].device), None, None)


def _scaled_or_shifted(node: Node, tensors: Tensors) -> Term | None:
    """A term times, divided by or plus a number or a stored vector over the channels."""
    name = operator_name(node.target)
    operands: tuple[Any, ...] = node.args
    value, by = operands[:2]
    if (name == "add" or op_info(name).multiplication) and isinstance(by, Node) and _number(value, tensors) is not None:
        value, by = by, value
    number = _number(by, tensors)
    if number is None or node.kwargs or not isinstance(value, Node) or form(value) != form(node):
        return None
    wide = [dim for dim, size in enumerate(number.shape) if size != 1]
    if len(wide) > 1 or not node.meta["val"].is_floating_point():
        return None
    dim = node.meta["val"].ndim - number.ndim + wide[0] if wide else None
    number = number.reshape(-1 if wide else ()).to(node.meta["val"].device)
    if name in ("add", "sub"):
        shift = None if by == 0 else -number if name == "sub" else number  # Python's `sum` starts with 0
        return _operand(value, tensors).scaled(number.new_ones(()), shift, dim)
    return _operand(value, tensors).scaled(1 / number if op_info(name).division else number, dim=dim)


def _number(operand: Any, tensors: Tensors) -> Tensor | None:
    if isinstance(operand, Node):
        return stored(operand, tensors)
    return torch.tensor(operand, dtype=torch.double) if isinstance(operand, (int, float)) else None


def _sum(node: Node, a: Term, b: Term) -> Term | None:
    """The sum of two terms of one source. The layer with the larger kernel stays."""
    if a.source is not b.source or (a.dim is not None and b.dim is not None and a.dim != b.dim):
        return None
    dim = b.dim if a.dim is None else a.dim
    bias = a.bias if b.bias is None else b.bias if a.bias is None else a.bias + b.bias
    if a.layer is None and b.layer is None:
        return Term(a.source, None, a.kernel + b.kernel, bias, dim)
    own, other = (geometry_of(term) if term.layer is not None else None for term in (a, b))
    one, two = own or other.pointwise(), other or own.pointwise()  # type: ignore[union-attr]
    geometry = enclosing_geometry(one, two, node, a.source)
    if geometry is None:
        return None
    main, its = (b, two) if a.layer is None or (b.layer is not None and two == geometry != one) else (a, one)
    parts = (geometry.pad_kernel(_kernel(term, each, node), each) for term, each in ((a, one), (b, two)))
    return replace(
        main, kernel=sum(parts), bias=bias, dim=dim, rest=main.rest if its == geometry else geometry.layer_arguments()
    )


def _kernel(term: Term, geometry: KernelGeometry, node: Node) -> Tensor:
    """A term's kernel. Without a layer it is a diagonal one: a factor for each channel, of a group's width."""
    if term.layer is not None:
        return term.kernel
    channels = node.meta["val"].shape[-1 if geometry.operator == "linear" else 1]
    each = torch.arange(channels, device=term.kernel.device)
    kernel = term.kernel.new_zeros(channels, channels // geometry.groups)
    kernel[each, each % (channels // geometry.groups)] = term.kernel
    return kernel.reshape(*kernel.shape, *geometry.size)
