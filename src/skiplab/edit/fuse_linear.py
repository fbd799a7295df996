"""What is linear in one value as one layer: norms, factors and sums of convolutions, or of linear layers."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from skiplab.edit.graph_editor import Draft
from skiplab.edit.kernel_geometry import Window, around, window_of
from skiplab.graph.affine import Term, layer_term, normed, stored, weights
from skiplab.graph.functionalize import form
from skiplab.graph.ops import is_scale, op_info, operator_name

aten = torch.ops.aten
Tensors = Mapping[str, Tensor]


def as_layer(node: Node, tensors: Tensors) -> Term | None:
    """A node as the one layer that it comes to; None where there is none, or where it is that layer itself."""
    term = None if layer_term(node, tensors) else _term(node, tensors)
    return None if term is None or term.layer is None else term


def put(draft: Draft, node: Node, term: Term) -> None:
    """The layer that a term starts from computes the term, and what read the node reads the layer."""
    layer = term.layer
    assert layer is not None
    assert term.dim is not None
    kernel, bias = weights(layer)
    draft.replace_tensor(kernel.name, term.kernel, rewritten=True)
    offset = None if term.bias is None else term.bias.expand(layer.meta["val"].shape[term.dim])
    if bias is not None and offset is not None:
        draft.replace_tensor(bias.name, offset, rewritten=True)
    elif offset is not None:
        path, _, name = draft.name_of(kernel).rpartition(".")
        named = name.replace("weight", "bias") if "weight" in name else f"{name}_bias"
        bias = draft.parameter(path, named, offset, like=layer)
    if len(term.rest) > 1 and not isinstance(term.rest[1], str):
        layer.target = _by_numbers(layer)
    layer.args = (term.source, kernel, *([bias] if bias is not None or term.rest else []), *term.rest)
    draft.replace(node, layer)


def _by_numbers(layer: Node) -> Any:
    """The overload of a layer whose padding is not given by name."""
    name, info = operator_name(layer.target), op_info(layer)
    return getattr(aten, name).default if info.convolution and not info.transposed else layer.target


def _term(node: Node, tensors: Tensors) -> Term | None:
    """A node as a term; None where it is neither a layer nor made of one value by norms, factors and sums."""
    if node.op != "call_function" or not isinstance(node.meta.get("val"), Tensor):
        return None
    if operator_name(node.target) == "batch_norm" and isinstance(node.args[0], Node):
        return normed(node, _operand(node.args[0], tensors), tensors)
    if is_scale(operator_name(node.target)) or node.target is aten.sub.Tensor:  # what is left of those is of a number
        return _changed(node, tensors)
    if node.target is aten.add.Tensor and not node.kwargs:
        operands: tuple[Any, ...] = node.args
        a, b = operands
        alike = isinstance(a, Node) and isinstance(b, Node) and form(a) == form(b) == form(node)
        return _sum(node, _operand(a, tensors), _operand(b, tensors)) if alike else _changed(node, tensors)
    return layer_term(node, tensors)


def _operand(node: Node, tensors: Tensors) -> Term:
    """The term that a node is where nothing else reads it; the node itself where it is none."""
    found = _term(node, tensors) if len(node.users) == 1 else None
    return found or Term(node, None, torch.ones((), device=node.meta["val"].device), None, None)


def _changed(node: Node, tensors: Tensors) -> Term | None:
    """A product, quotient or sum of a term with a number or a stored vector of the channels."""
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
        shift = None if by == 0 else -number if name == "sub" else number  # Python's `sum` begins with 0
        return _operand(value, tensors).scaled(number.new_ones(()), shift, dim)
    return _operand(value, tensors).scaled(1 / number if op_info(name).division else number, dim=dim)


def _number(operand: Any, tensors: Tensors) -> Tensor | None:
    if isinstance(operand, Node):
        return stored(operand, tensors)
    return torch.tensor(operand, dtype=torch.double) if isinstance(operand, (int, float)) else None


def _sum(node: Node, a: Term, b: Term) -> Term | None:
    """Of two terms with the same source; the larger kernel's layer is the one that stays."""
    if a.source is not b.source or (a.dim is not None and b.dim is not None and a.dim != b.dim):
        return None
    dim = b.dim if a.dim is None else a.dim
    bias = a.bias if b.bias is None else b.bias if a.bias is None else a.bias + b.bias
    if a.layer is None and b.layer is None:
        return Term(a.source, None, a.kernel + b.kernel, bias, dim)
    own, other = (window_of(term) if term.layer is not None else None for term in (a, b))
    one, two = own or other.single(), other or own.single()  # type: ignore[union-attr]
    window = around(one, two, node, a.source)
    if window is None:
        return None
    main, its = (b, two) if a.layer is None or (b.layer is not None and two == window != one) else (a, one)
    parts = (window.place(_kernel(term, each, node), each) for term, each in ((a, one), (b, two)))
    return replace(main, kernel=sum(parts), bias=bias, dim=dim, rest=main.rest if its == window else window.rest())


def _kernel(term: Term, window: Window, node: Node) -> Tensor:
    """A term's kernel; where it has no layer, one that gives each channel its factor, of a group's width."""
    if term.layer is not None:
        return term.kernel
    channels = node.meta["val"].shape[-1 if window.operator == "linear" else 1]
    each = torch.arange(channels, device=term.kernel.device)
    kernel = term.kernel.new_zeros(channels, channels // window.groups)
    kernel[each, each % (channels // window.groups)] = term.kernel
    return kernel.reshape(*kernel.shape, *window.size)
