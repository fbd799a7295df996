"""Blocks with a graph of their own, under `torch.no_grad` or autocast, become part of the graph around them."""

import operator

import torch
from torch import Tensor
from torch.fx import GraphModule, Node


def inline(module: GraphModule) -> None:
    """Makes blocks under `torch.no_grad`, reentrant checkpoints and autocast part of the graph, in place.

    `torch.export` wraps each in a graph of its own. Results of a block under `torch.no_grad` are detached, as gradients
    do not flow through it. A block under autocast runs in the precision of its operands: the same network, with less
    rounding.
    """
    for node in list(module.graph.nodes):
        if not _is_block(node):
            continue
        position = next(i for i, a in enumerate(node.args) if isinstance(a, Node) and a.op == "get_attr")
        attribute = node.args[position]
        block = getattr(module, attribute.target)
        inline(block)
        outputs = _copied(module, node, block, node.args[position + 1 :])
        if _is_without_gradients(node):
            outputs = [_detached(module, node, output) for output in outputs]
        for part in list(node.users):
            assert part.target is operator.getitem
            part.replace_all_uses_with(outputs[part.args[1]])
            module.graph.erase_node(part)
        module.graph.erase_node(node)
        if not attribute.users:
            module.graph.erase_node(attribute)


def _is_block(node: Node) -> bool:
    name = getattr(node.target, "__name__", "")
    return name in ("wrap_with_set_grad_enabled", "wrap_with_autocast")


def _is_without_gradients(node: Node) -> bool:
    return getattr(node.target, "__name__", "") == "wrap_with_set_grad_enabled" and node.args[0] is False


def _detached(module: GraphModule, block: Node, output: Node) -> Node:
    value = output.meta.get("val")
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return output
    with module.graph.inserting_before(block):
        detached = module.graph.call_function(torch.ops.aten.detach.default, (output,))
    detached.meta = dict(output.meta)
    return detached


def _copied(module: GraphModule, node: Node, block: GraphModule, operands: tuple) -> list[Node]:
    """Copies a block's nodes to where it is called. Returns the nodes of its results."""
    inside = dict(zip((n for n in block.graph.nodes if n.op == "placeholder"), operands, strict=True))
    for inner in block.graph.nodes:
        if inner.op == "output":
            return list(torch.fx.map_arg(inner.args[0], lambda n: inside[n]))  # type: ignore[arg-type]
        if inner.op == "placeholder":
            continue
        with module.graph.inserting_before(node):
            inside[inner] = module.graph.node_copy(inner, lambda n: inside[n])
        if inner.op == "get_attr":
            inside[inner].target = name = f"{node.name}_{inner.target}"
            setattr(module, name, getattr(block, inner.target))
    raise AssertionError("a graph ends with its output")
