"""Which dimension of a value is its channels."""

import torch

from skiplab.graph.ops import WEIGHT_LAYERS, Op
from skiplab.graph.program import Program

MOVES = frozenset("permute transpose movedim moveaxis swapaxes swapdims".split())  # of dimensions
_LAYERS = (*WEIGHT_LAYERS, "batch_norm", "norm")
_IMAGES = ("conv", "batch_norm", "group_norm", "instance_norm")


def channel(program: Program, op: Op) -> int:
    """Which dimension of an op's value is the channels: that which the layer behind it, or a norm, made so.

    A convolution and a batch norm have them in dimension 1, all other layers in the last, where they stay when the
    others are reshaped. An input's are where the first layer that reads it has them.
    """
    value, way = op, []
    while op.inputs and op.kind not in _LAYERS:
        way.append(op)
        op = program.ops[op.inputs[0]]
    layers = [op] if op.kind != "input" else [program.ops[user] for user in program.users[op.index]]
    layer = next((layer for layer in layers if layer.kind in _LAYERS), None)
    dim = 1 if layer is None or layer.target.startswith(_IMAGES) else -1
    for move in (each for each in reversed(way) if each.target in MOVES):
        # where the dimension goes is seen on a tensor whose sizes are its places
        count, node = len(move.shape), program.nodes[move.name]
        moved = node.target(torch.empty(tuple(range(count)), device="meta"), *node.args[1:])  # type: ignore[operator]
        dim = moved.shape.index(dim % count)
        dim = -1 if dim == count - 1 else dim
    return dim % len(value.shape)
