"""Blocks that trade places: the same structure, and each other's weights."""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from skiplab.errors import UsageError
from skiplab.execute import Edge, Patch
from skiplab.measure.lesions.record import Lesion
from skiplab.merges import merge_at
from skiplab.program import Program
from skiplab.reach import between
from skiplab.skips import Skip, Skips

Reads = tuple[Edge, ...]  # where a block reads its weights and buffers, in order


def reorderings(program: Program, skips: Skips, most: int, draws: int, seed: int) -> list[Lesion]:
    """For each k from 1 to `most`, at most `draws` networks in which k random pairs of like blocks have been swapped.

    The pairs are distinct, and swapped one after the other, so that a block may wander. A block is what lies
    between fork and merge; two are alike when their operators, shapes and weights' shapes are. Veit et al. 2016, §4.3.
    """
    pairs = like(program, skips)
    if not 1 <= most <= len(pairs):
        raise UsageError(f"reorder={most}: these {len(skips)} skips have {len(pairs)} pairs of like blocks to swap")
    generator = torch.Generator().manual_seed(seed)
    reads = {skip.id: weights_read(program, skip) for pair in pairs for skip in pair}
    found: dict[str, Lesion] = {}  # where there are few pairs, the same are drawn again
    for k in range(1, most + 1):
        for _ in range(draws):
            drawn = [pairs[i] for i in torch.randperm(len(pairs), generator=generator)[:k].tolist()]
            swapped = _swapped(program, drawn, reads)
            found.setdefault(swapped.id, swapped)
    return list(found.values())


def like(program: Program, skips: Skips) -> list[tuple[Skip, Skip]]:
    """All pairs of skips whose blocks may trade places: alike, and without a weight in common."""
    forms = {skip.id: _form(program, skip) for skip in skips}
    weights = {skip.id: {weight for _, weight in weights_read(program, skip)} for skip in skips}
    return [
        (a, b)
        for a, b in itertools.combinations(skips, 2)
        if forms[a.id] == forms[b.id] and weights[a.id] and not weights[a.id] & weights[b.id]
    ]


def weights_read(program: Program, skip: Skip) -> Reads:
    """The edges on which a block reads parameters and buffers, also those that are computed on before it uses them."""
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
    """What two blocks must share: each op's operator, constants, shape and operands, and the weights' shapes."""
    block = _block(program, skip)
    place = {index: i for i, index in enumerate(block)}
    ops = []
    for op in (program.ops[index] for index in block):
        node = program.nodes[op.name]
        constants = str(torch.fx.map_arg((node.args, node.kwargs), lambda _: None))  # operands are told by place
        ops.append((op.target, constants, op.shape, tuple(place.get(operand, -1) for operand in op.inputs)))
    weights = [program.tensors[weight] for _, weight in weights_read(program, skip)]
    return tuple(ops), tuple((weight.shape, weight.dtype) for weight in weights)


def _swapped(program: Program, pairs: Sequence[tuple[Skip, Skip]], reads: dict[str, Reads]) -> Lesion:
    holder = {skip.id: skip.id for pair in pairs for skip in pair}  # block -> the block whose weights it has
    for a, b in pairs:
        holder[a.id], holder[b.id] = holder[b.id], holder[a.id]
    patches: dict[Edge, Patch] = {}
    for block, other in holder.items():
        for edge, (_, weight) in zip(reads[block], reads[other], strict=True):
            patches[edge] = _constant(program.tensors[weight])
    readers = {reader for reader, _ in patches}
    return Lesion(
        id=" + ".join(f"{a.id} ↔ {b.id}" for a, b in pairs),
        order=min(program.by_name[skip.merge].index for pair in pairs for skip in pair),
        kind="reorder",
        k=len(pairs),
        start=next(name for name in program.nodes if name in readers),
        patches=lambda _: patches,
    )


def _constant(tensor: Tensor) -> Patch:
    return lambda _: tensor
