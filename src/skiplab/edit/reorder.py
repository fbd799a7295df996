"""Blocks that trade places."""

from collections.abc import Sequence

from skiplab.analysis.blocks import like, weights_read
from skiplab.analysis.skips import Skips
from skiplab.edit.graph_editor import Draft
from skiplab.errors import UsageError
from skiplab.graph.program import Program


def reorder(program: Program, skips: Skips, order: Sequence[int]) -> Program:
    """The blocks of these skips in another order: at place i stands block `order[i]`, with its weights and buffers.

    Tensors keep their names, so that a checkpoint of the network loads into either; only who reads them changes.
    Veit et al. 2016, arXiv:1605.06431, §4.3.

    Args:
        program: the network.
        skips: those whose blocks move, counted from 0. They have to be alike: the same operators and shapes, and no
            weights in common.
        order: a permutation of their numbers.

    Raises:
        StaleSkip: for skips of another program.
        UsageError: for blocks that are not alike; for an order that is no permutation; for the cell state of a fused
            recurrent operator.
    """
    skips.check(program).require_merges()
    if sorted(order) != list(range(len(skips))):
        raise UsageError(f"order={list(order)}: give each of the numbers 0 … {len(skips) - 1} of these skips once")
    alike = {pair for a, b in like(program, skips) for pair in ((a.id, b.id), (b.id, a.id))}
    for place, block in enumerate(order):
        there, here = skips[place], skips[block]
        if there.id != here.id and (there.id, here.id) not in alike:
            forms = " and ".join(f"`{skip.id}` {program.by_name[skip.merge].shape}" for skip in (here, there))
            raise UsageError(f"{forms} cannot trade places: their operators, shapes or weights' shapes differ")
    draft = Draft(program)
    reads = [weights_read(program, skip) for skip in skips]
    for place, block in enumerate(order):
        for edge, (_, tensor) in zip(reads[place], reads[block], strict=True):
            draft.redirect(edge, draft.nodes[tensor])
    return draft.done()
