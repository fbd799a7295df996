"""Blocks (the ops between fork and merge) that have the same structure and so can be exchanged."""

import itertools

import torch

from skiplab.analysis.merges import merge_at
from skiplab.analysis.reachability import between
from skiplab.analysis.skips import Skip, Skips
from skiplab.graph.interpreter import Edge
from skiplab.graph.program import Program

Reads = tuple[Edge, ...]  # the edges on which a block reads its weights and buffers, in order


def exchangeable_pairs(program: Program, skips: Skips) -> list[tuple[Skip, Skip]]:
    """All pairs of skips whose blocks can be exchanged: they have the same structure and share no weight."""
    forms = {skip.id: _form(program, skip) for skip in skips}
    weights = {skip.id: {weight for _, weight in weights_read(program, skip)} for skip in skips}
    return [
        (a, b)
        for a, b in itertools.combinations(skips, 2)
        if forms[a.id] == forms[b.id] and weights[a.id] and not weights[a.id] & weights[b.id]
    ]


def weights_read(program: Program, skip: Skip) -> Reads:
    """The edges on which a block reads parameters and buffers, directly or through ops that carry no data."""
    reads: dict[Edge, None] = {}
    pending = [program.nodes[program.ops[index].name] for index in reversed(_block(program, skip))]
    while pending:
        node = pending.pop()
        for operand in node.all_input_nodes:
            if operand.name in program.tensors:
                reads[node.name, operand.name] = None
            elif operand.name not in program.by_name:
                pending.append(operand)
    return tuple(reads)


def _block(program: Program, skip: Skip) -> list[int]:
    """Indices of the ops from fork to merge, without the fork."""
    merge = merge_at(program, skip.merge)
    return sorted(between(program, program.by_name[skip.fork].index, [*merge.operands, *merge.readers]))


def _form(program: Program, skip: Skip) -> tuple:
    """The structure of a block: each op's operator, constants, shape and operands, and the weights' shapes."""
    block = _block(program, skip)
    place = {index: i for i, index in enumerate(block)}
    ops = []
    for op in (program.ops[index] for index in block):
        node = program.nodes[op.name]
        constants = str(torch.fx.map_arg((node.args, node.kwargs), lambda _: None))  # operands are compared by place
        ops.append((op.target, constants, op.shape, tuple(place.get(operand, -1) for operand in op.inputs)))
    weights = [program.tensors[weight] for _, weight in weights_read(program, skip)]
    return tuple(ops), tuple((weight.shape, weight.dtype) for weight in weights)
