"""Another order of the blocks of a network."""

from collections.abc import Sequence

from skiplab.analysis.equal_blocks import exchangeable_pairs, weights_read
from skiplab.analysis.skips import Skips
from skiplab.edit.graph_editor import GraphEditor
from skiplab.errors import UsageError
from skiplab.graph.program import Program


def reorder(program: Program, skips: Skips, order: Sequence[int]) -> Program:
    """Puts blocks in another order: place i gets the weights and buffers of block `order[i]`.

    Tensors keep their names, so a checkpoint of the network loads into either; only the operators that read them
    change. Veit et al. 2016, arXiv:1605.06431, §4.3.

    Args:
        program: the network.
        skips: the skips whose blocks move, numbered from 0. The blocks need the same operators and shapes, and share no
            weights.
        order: a permutation of the numbers of the blocks.

    Raises:
        StaleSkip: for skips of another program.
        UsageError: for blocks that differ; for an order that is no permutation; for the cell state of a fused recurrent
            operator.
    """
    skips.check(program).require_merges()
    if sorted(order) != list(range(len(skips))):
        raise UsageError(f"order={list(order)}: give each of the numbers 0 … {len(skips) - 1} of these skips once")
    alike = {pair for a, b in exchangeable_pairs(program, skips) for pair in ((a.id, b.id), (b.id, a.id))}
    for place, block in enumerate(order):
        there, here = skips[place], skips[block]
        if there.id != here.id and (there.id, here.id) not in alike:
            forms = " and ".join(f"`{skip.id}` {program.by_name[skip.merge].shape}" for skip in (here, there))
            raise UsageError(f"{forms} cannot trade places: their operators, shapes or weight shapes differ")
    editor = GraphEditor(program)
    reads = [weights_read(program, skip) for skip in skips]
    for place, block in enumerate(order):
        for edge, (_, tensor) in zip(reads[place], reads[block], strict=True):
            editor.redirect(edge, editor.nodes[tensor])
    return editor.finish()
