"""Rewrite operators that contain an addition, so that every merge is an addition of its own.

`addcmul(x, a, b)` is `x + a·b`, `lerp(x, y, w)` is `x·(1 − w) + y·w`, a sum over a `stack` is a sum of the
stacked tensors, and an entry of a `stack` is the stacked tensor. A matrix product with a parameter as bias
stays a linear layer.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node

from skiplab.graph.functionalize import fake_value
from skiplab.graph.torch_compat import schema_of

aten = torch.ops.aten
Call = Callable[..., Any]  # (operator, operands) -> the node of a new call


def unfold(graph: Graph) -> None:
    """Rewrites the fused additions of a functional graph, in place."""
    for node in list(graph.nodes):
        schema = schema_of(node.target)
        rule = _RULES.get(schema.name.split("::")[-1]) if schema is not None else None
        if rule is None:
            continue

        def call(target: Any, *args: Any, like: Node = node, **kwargs: Any) -> Node:
            with graph.inserting_before(like):
                new = graph.call_function(target, args, kwargs)
            new.meta = {**like.meta, "val": fake_value(new)}
            return new

        replacement = rule(call, node, *node.args, **node.kwargs)
        if replacement is not None:
            replacement.meta["val"] = node.meta["val"]
            node.replace_all_uses_with(replacement)
            graph.erase_node(node)
    for node in reversed(list(graph.nodes)):
        if node.target in (aten.stack.default, aten.slice.Tensor) and not node.users:
            graph.erase_node(node)


def _matrix_rule(product: Any) -> Callable[..., Node | None]:
    def rule(call: Call, _: Node, bias: Node, a: Node, b: Node, **scales: Any) -> Node | None:
        if bias.meta.get("lifted"):
            return None
        beta, alpha = scales.get("beta", 1), scales.get("alpha", 1)
        return call(aten.add.Tensor, _scaled(call, bias, beta), _scaled(call, call(product, a, b), alpha))

    return rule


def _elementwise_rule(product: Any) -> Callable[..., Node]:
    def rule(call: Call, _: Node, x: Node, a: Node, b: Node, value: Any = 1) -> Node:
        return call(aten.add.Tensor, x, _scaled(call, call(product, a, b), value))

    return rule


def _add(call: Call, _: Node, x: Any, y: Any, alpha: Any = 1) -> Node | None:
    """`add(x, y, alpha)` as the addition of a scaled value, so that the scale factor is an op of its own."""
    if alpha == 1 or not (_is_tensor(x) and _is_tensor(y)):
        return None
    return call(aten.add.Tensor, x, call(aten.mul.Tensor, y, alpha))


def _sub(call: Call, _: Node, x: Any, y: Any, alpha: Any = 1) -> Node | None:
    """`x − αy` as `x + (−α)y`; `rsub` has its operands swapped."""
    if not _is_tensor(x) or not _is_tensor(y) or isinstance(alpha, Node):
        return None
    return call(aten.add.Tensor, x, call(aten.mul.Tensor, y, -alpha))


def _rsub(call: Call, node: Node, x: Any, y: Any, alpha: Any = 1) -> Node | None:
    return _sub(call, node, y, x, alpha)


def _is_tensor(value: Any) -> bool:
    """Whether a value is a tensor, and not a size that varies with the batch."""
    return isinstance(value, Node) and isinstance(value.meta.get("val"), Tensor)


def _lerp(call: Call, _: Node, x: Node, y: Node, weight: Any) -> Node | None:
    if isinstance(weight, Node) and not _is_tensor(weight):
        return None
    if isinstance(weight, Node):
        rest = call(aten.rsub.Scalar, weight, 1)
        return call(aten.add.Tensor, call(aten.mul.Tensor, x, rest), call(aten.mul.Tensor, y, weight))
    return call(aten.add.Tensor, _scaled(call, x, 1 - weight), _scaled(call, y, weight))


def _sum(call: Call, node: Node, stack: Node, dims: Any = None, keepdim: bool = False, **rest: Any) -> Node | None:
    """A sum over the stacking dimension of a `stack` that nothing else reads."""
    if stack.target is not aten.stack.default or len(stack.users) > 1 or keepdim or rest:
        return None
    parts, dim = stack.args[0], stack.args[1] if len(stack.args) > 1 else 0
    value = stack.meta["val"]
    over = [d % value.ndim for d in dims] if isinstance(dims, list) else []
    if over != [dim % value.ndim] or value.dtype != node.meta["val"].dtype:  # type: ignore[operator]
        return None
    return functools.reduce(lambda total, part: call(aten.add.Tensor, total, part), parts)  # type: ignore[arg-type]


def _mean(call: Call, node: Node, stack: Node, dims: Any = None, keepdim: bool = False, **rest: Any) -> Node | None:
    total = _sum(call, node, stack, dims, keepdim, **rest)
    return None if total is None else call(aten.div.Tensor, total, len(stack.args[0]))  # type: ignore[arg-type]


def _select(_call: Call, _node: Node, source: Node, dim: int, index: Any) -> Node | None:
    """One part of a `stack`: the last step of a sequence, for example."""
    while source.target is aten.slice.Tensor and _same_shape(source, source.args[0]):
        source = source.args[0]  # type: ignore[assignment]
    if source.target is not aten.stack.default or not isinstance(index, int):
        return None
    parts, at = source.args[0], source.args[1] if len(source.args) > 1 else 0
    ndim = source.meta["val"].ndim
    return parts[index] if at % ndim == dim % ndim else None  # type: ignore[operator,index,return-value]


def _same_shape(one: Node, other: Any) -> bool:
    return one.meta["val"].shape == other.meta["val"].shape


def _scaled(call: Call, node: Node, factor: Any) -> Node:
    return node if not isinstance(factor, Node) and factor == 1 else call(aten.mul.Tensor, node, factor)


_RULES: dict[str, Callable[..., Node | None]] = {
    "addmm": _matrix_rule(aten.mm.default),
    "baddbmm": _matrix_rule(aten.bmm.default),
    "addmv": _matrix_rule(aten.mv.default),
    "addr": _matrix_rule(aten.outer.default),
    "addcmul": _elementwise_rule(aten.mul.Tensor),
    "addcdiv": _elementwise_rule(aten.div.Tensor),
    "lerp": _lerp,
    "add": _add,
    "sub": _sub,
    "rsub": _rsub,
    "sum": _sum,
    "mean": _mean,
    "select": _select,
}


def expand_blends(graph: Graph) -> None:
    """Rewrites `a + g·(b − a)`, with a tensor g (a gate, or a parameter), as `a·(1 − g) + b·g`, in place.

    Both spellings then have the same skips.
    """
    data: set[Node] = set()
    for node in list(graph.nodes):
        if (node.op == "placeholder" and not node.meta.get("lifted")) or any(n in data for n in node.all_input_nodes):
            data.add(node)
        if node.target is aten.add.Tensor and node in data:
            data.update(_expand_blend(graph, node))


def _expand_blend(graph: Graph, node: Node) -> list[Node]:
    """The new nodes; empty where the sum has another form."""
    for a, product in (node.args[:2], node.args[1::-1]):
        found = _difference(a, product) if isinstance(a, Node) else None
        if found is None or found[1].meta["val"].shape != node.meta["val"].shape:
            continue
        gate, b = found
        with graph.inserting_before(node):
            rest = graph.call_function(aten.rsub.Scalar, (gate, 1))
            parts = [graph.call_function(aten.mul.Tensor, pair) for pair in ((a, rest), (b, gate))]
        for new in (rest, *parts):
            new.meta = {**node.meta, "val": fake_value(new)}
        node.args = tuple(parts)
        _erase(graph, product)
        return [rest, *parts]
    return []


def _difference(a: Node, product: Any) -> tuple[Node, Node] | None:
    """The g and b of a product g·(b − a); None where `product` is something else."""
    sign, product = _signed(product)
    if not isinstance(product, Node) or product.target is not aten.mul.Tensor:
        return None
    for gate, inner in (product.args, product.args[::-1]):
        outer, inner = _signed(inner)
        if not isinstance(gate, Node) or not isinstance(inner, Node) or inner.target is not aten.add.Tensor:
            continue
        terms = [_signed(term) for term in inner.args[:2]]
        for (one, minus), (other, plus) in (terms, terms[::-1]):
            if minus is a and isinstance(plus, Node) and sign * outer * one == -1 and other == -one:
                return gate, plus
    return None


def _signed(node: Any) -> tuple[int, Any]:
    """A value without the factors −1 that subtractions put on it, and their product."""
    sign = 1
    while isinstance(node, Node) and node.target is aten.mul.Tensor and node.args[1] in (-1, -1.0):
        sign, node = -sign, node.args[0]
    return sign, node


def _erase(graph: Graph, node: Any) -> None:
    """Removes the product and the difference once nothing reads them."""
    if not isinstance(node, Node) or node.users or node.target not in (aten.mul.Tensor, aten.add.Tensor):
        return
    operands = node.all_input_nodes
    graph.erase_node(node)
    for operand in operands:
        _erase(graph, operand)
