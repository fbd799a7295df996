"""Conversion of post-activation blocks into pre-activation blocks."""

from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from skiplab.analysis.edges import fork_edges
from skiplab.analysis.skips import Skip, Skips
from skiplab.edit.fuse_linear import as_single_layer, fuse_into_layer
from skiplab.edit.graph_editor import GraphEditor
from skiplab.edit.new_layers import batch_norm
from skiplab.errors import UsageError
from skiplab.graph.affine import Term
from skiplab.graph.ops import op_info
from skiplab.graph.program import Op, Program

aten = torch.ops.aten


@dataclass(frozen=True)
class _Block:
    """A post-activation block.

    Attributes:
        path: the module that holds the merge.
        merge, activation: the sum, and the activation after it.
        ends: the last node of each branch -> the layer that it folds to.
    """

    path: str
    merge: Node
    activation: Node
    ends: dict[Node, Term]

    @property
    def settings(self) -> tuple[Any, ...]:
        """Momentum, ε and the remaining arguments of a branch's last batch norm."""
        return tuple(next(iter(self.ends)).args[6:])


def to_pre_activation(program: Program, skips: Skips, norm: bool = True) -> Program:
    """Turns post-activation blocks (ResNet v1) into pre-activation blocks (v2), whose shortcuts carry the raw sum.

    He et al. 2016, Identity Mappings in Deep Residual Networks, arXiv:1603.05027, §4.1 and Fig. 4. In each block
    conv-norm-…-conv-norm, add, activation:

    - The last batch norm of the branch is folded into its layer, which gets a bias.
    - The activation after the merge moves to the start of each branch that reads it, and in front of everything else
      that reads it: the pooling before a classifier, a skip that is not among `skips`. Shortcuts among `skips` read the
      sum itself; norms and projections on a shortcut stay.

    A branch whose fork is no merge of these blocks, such as the activation of a stem, starts unchanged.

    The function changes: with `norm=False` the result is, in evaluation, the old network without the activations on its
    shortcuts, and the same where these change nothing (sums without negative values, for ReLU). All weights are kept,
    so that training can continue; without its last norm a branch needs a smaller learning rate.

    Args:
        program: an inference graph.
        skips: the skips of the blocks; each joins by addition.
        norm: whether a new batch norm comes before each moved activation. It is called `pre_norm` in the module of the
            next block's merge and `post_norm` in the block's own, and starts as the identity up to its ε.

    Raises:
        StaleSkip: for skips of another program.
        UsageError: for a block of another form; for a training graph; for the cell state of a fused recurrent operator.
    """
    skips.check(program).require_merges()
    program.require_inference("whose batch norms cannot be folded")
    editor = GraphEditor(program)
    blocks = _blocks(editor, skips)
    for block in blocks.values():
        for end, term in block.ends.items():
            fuse_into_layer(editor, end, term)
    for name, block in blocks.items():
        _move(editor, block, [skip for skip in skips if skip.fork == name], norm)
    return editor.finish()


def _blocks(editor: GraphEditor, skips: Skips) -> dict[str, _Block]:
    """The blocks by name of their activation, one for each merge."""
    blocks: dict[str, _Block] = {}
    for skip in skips:
        activation = _activation(editor.program, skip)
        ends = {editor.nodes[name]: _end(editor, skip, name) for name in skip.branch}
        if activation.name in blocks:
            ends = {**blocks[activation.name].ends, **ends}
        blocks[activation.name] = _Block(skip.path, editor.nodes[skip.merge], editor.nodes[activation.name], ends)
    return blocks


def _activation(program: Program, skip: Skip) -> Op:
    if skip.combine != "add":
        raise UsageError(f"`{skip.id}` joins by {skip.combine}, and a post-activation block joins by add: leave it out")
    merge = program.by_name[skip.merge]
    readers = [program.ops[index] for index in program.users[merge.index]]
    if len(readers) == 1 and merge.index not in program.outputs and op_info(readers[0].target).elementwise:
        return readers[0]
    names = [f"`{op.target}`" for op in readers] + ["the output"] * (merge.index in program.outputs)
    raise UsageError(
        f"`{skip.id}`: its sum {merge.shape} is read by {', '.join(names) or 'nothing'}, and that of a post-activation "
        "block only by one activation: leave out blocks of another form, or that are pre-activation already"
    )


def _end(editor: GraphEditor, skip: Skip, name: str) -> Term:
    """The last batch norm of a branch and the layer before it, as one layer."""
    op, node = editor.program.by_name[name], editor.nodes[name]
    term = as_single_layer(node, editor.tensors) if op.kind == "batch_norm" and len(node.users) == 1 else None
    if term is None:
        raise UsageError(
            f"`{skip.id}`: its branch ends in `{op.target}` {op.shape}, and that of a post-activation block in a batch "
            "norm that is the only reader of a convolution or linear layer with weights of its own: leave it out"
        )
    return term


def _move(editor: GraphEditor, block: _Block, following: list[Skip], norm: bool) -> None:
    """Moves the activation of a block to the values that read it."""
    fork_reads = [(skip, *fork_edges(editor.program, skip)) for skip in following]
    raw = {edge for _, light, _ in fork_reads for edge in light}
    for edge in raw:
        editor.redirect(edge, block.merge)
    for merge, path in {skip.merge: skip.path for skip in following}.items():
        edges = {edge for skip, _, heavy in fork_reads if skip.merge == merge for edge in heavy}
        readers = [editor.nodes[reader] for reader in dict(edges)]
        readers = [node for node in readers if block.activation in node.all_input_nodes]
        first = min(readers, key=lambda node: editor.program.by_name[node.name].index, default=None)
        if first is not None:
            value = _new_norm(editor, block, first, path, "pre_norm") if norm else block.merge
            args, kwargs = block.activation.args[1:], block.activation.kwargs
            moved = editor.call(first, block.activation.target, value, *args, **kwargs)
            for reader in readers:
                reader.replace_input_with(block.activation, moved)
    if norm and block.activation.users:
        value = _new_norm(editor, block, block.activation, block.path, "post_norm")
        block.activation.replace_input_with(block.merge, value)


def _new_norm(editor: GraphEditor, block: _Block, before: Node, path: str, name: str) -> Node:
    """A new batch norm of a block's sum that starts as the identity."""
    like = block.merge
    tensors = batch_norm(editor, path, name, like.meta["val"].shape[1], like=like)
    return editor.call(before, aten.batch_norm.default, like, *tensors, False, *block.settings)
