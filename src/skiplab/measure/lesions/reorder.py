"""Blocks of the same structure that swap their weights."""

from collections.abc import Sequence

import torch
from torch import Tensor

from skiplab.analysis.equal_blocks import Reads, exchangeable_pairs, weights_read
from skiplab.analysis.skips import Skip, Skips
from skiplab.errors import UsageError
from skiplab.graph.interpreter import Edge, Patch
from skiplab.graph.program import Program
from skiplab.measure.lesions.spec import Lesion


def reorderings(program: Program, skips: Skips, most: int, draws: int, seed: int) -> list[Lesion]:
    """For each k from 1 to `most`, at most `draws` networks in which k random pairs of like blocks have been swapped.

    The pairs are distinct and swapped one after the other, so a block may move several times. A block is what lies
    between fork and merge; two are alike if their operators, shapes and weight shapes are. Veit et al. 2016, §4.3.
    """
    pairs = exchangeable_pairs(program, skips)
    if not 1 <= most <= len(pairs):
        raise UsageError(f"reorder={most}: these {len(skips)} skips have {len(pairs)} pairs of like blocks to swap")
    generator = torch.Generator().manual_seed(seed)
    reads = {skip.id: weights_read(program, skip) for pair in pairs for skip in pair}
    found: dict[str, Lesion] = {}  # with few pairs, the same are drawn again
    for k in range(1, most + 1):
        for _ in range(draws):
            drawn = [pairs[i] for i in torch.randperm(len(pairs), generator=generator)[:k].tolist()]
            swapped = _swapped(program, drawn, reads)
            found.setdefault(swapped.id, swapped)
    return list(found.values())


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
