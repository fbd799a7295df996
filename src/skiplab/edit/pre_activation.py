"""Post-activation blocks turned into pre-activation ones."""

from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from skiplab.analysis.edges import fork_edges
from skiplab.analysis.skips import Skip, Skips
from skiplab.edit.fuse_linear import as_layer, put
from skiplab.edit.graph_editor import Draft
from skiplab.edit.new_layers import batch_norm
from skiplab.errors import UsageError
from skiplab.graph.affine import Term
from skiplab.graph.ops import op_info
from skiplab.graph.program import Op, Program

aten = torch.ops.aten


@dataclass(frozen=True)
class _Block:
    """A post-activation block: its merge, the activation after it, and its branches' ends with what they fold to."""

    path: str
    merge: Node
    activation: Node
    ends: dict[Node, Term]

    @property
    def settings(self) -> tuple[Any, ...]:
        """Momentum, ε and the rest of a branch's last batch norm."""
        return tuple(next(iter(self.ends)).args[6:])


def to_pre_activation(program: Program, skips: Skips, norm: bool = True) -> Program:
    """Blocks of the form conv-norm-…-conv-norm, add, activation become those whose shortcuts carry the raw sum.

    He et al. 2016, Identity Mappings in Deep Residual Networks, arXiv:1603.05027, §4.1 and Fig. 4. Of each block

    - the branch's last batch norm is folded into its layer, which gets a bias;
    - the activation after the merge moves behind it: to the start of each branch that reads it, and in front of
      everything else that does: the pooling before a classifier, a skip that is not among `skips`. The shortcuts
      among them that start there read the sum itself; norms and projections on a shortcut stay.

    A branch whose fork is no merge of these blocks, such as a stem's activation, starts as before.

    The function changes: in evaluation the result is, with `norm=False`, the old network without the activations on its
    shortcuts, and the same where these change nothing (sums that are nowhere negative, for ReLU). All weights are kept,
    so that it can be trained on from there; without its last norm a branch needs a smaller learning rate.

    Args:
        program: an inference graph.
        skips: the blocks, whose merges are sums.
        norm: a batch norm in front of each activation that has moved: `pre_norm` of the module in which the next
            block's merge stands; `post_norm` of the block's own in front of everything else. It starts as identity,
            but for its ε: weight 1, bias 0, mean 0, variance 1.

    Raises:
        StaleSkip: for skips of another program.
        UsageError: for a block of another form; for a training graph; for the cell state of a fused recurrent operator.
    """
    skips.check(program).require_merges()
    program.require_inference("whose batch norms cannot be folded")
    draft = Draft(program)
    blocks = _blocks(draft, skips)
    for block in blocks.values():
        for end, term in block.ends.items():
            put(draft, end, term)
    for name, block in blocks.items():
        _move(draft, block, [skip for skip in skips if skip.fork == name], norm)
    return draft.done()


def _blocks(draft: Draft, skips: Skips) -> dict[str, _Block]:
    """By name of the activation, each merge once."""
    blocks: dict[str, _Block] = {}
    for skip in skips:
        activation = _activation(draft.program, skip)
        ends = {draft.nodes[name]: _end(draft, skip, name) for name in skip.branch}
        if activation.name in blocks:
            ends = {**blocks[activation.name].ends, **ends}
        blocks[activation.name] = _Block(skip.path, draft.nodes[skip.merge], draft.nodes[activation.name], ends)
    return blocks


def _activation(program: Program, skip: Skip) -> Op:
    if skip.combine != "add":
        raise UsageError(f"`{skip.id}` is joined by {skip.combine}, and a post-activation block by add: leave it out")
    merge = program.by_name[skip.merge]
    readers = [program.ops[index] for index in program.users[merge.index]]
    if len(readers) == 1 and merge.index not in program.outputs and op_info(readers[0].target).elementwise:
        return readers[0]
    names = [f"`{op.target}`" for op in readers] + ["the output"] * (merge.index in program.outputs)
    raise UsageError(
        f"`{skip.id}`: its sum {merge.shape} is read by {', '.join(names) or 'nothing'}, and that of a post-activation "
        "block by one activation alone: leave out what has another form, or is pre-activation already"
    )


def _end(draft: Draft, skip: Skip, name: str) -> Term:
    """A branch's last batch norm and the layer before it as one layer."""
    op, node = draft.program.by_name[name], draft.nodes[name]
    term = as_layer(node, draft.tensors) if op.kind == "batch_norm" and len(node.users) == 1 else None
    if term is None:
        raise UsageError(
            f"`{skip.id}`: its branch ends in `{op.target}` {op.shape}, and that of a post-activation block in a batch "
            "norm that alone reads a convolution or linear layer with weights of its own: leave it out"
        )
    return term


def _move(draft: Draft, block: _Block, following: list[Skip], norm: bool) -> None:
    """The activation of a block goes to those that read it."""
    ways = [(skip, *fork_edges(draft.program, skip)) for skip in following]
    raw = {edge for _, light, _ in ways for edge in light}
    for edge in raw:
        draft.redirect(edge, block.merge)
    for merge, path in {skip.merge: skip.path for skip in following}.items():
        edges = {edge for skip, _, heavy in ways if skip.merge == merge for edge in heavy}
        readers = [draft.nodes[reader] for reader in dict(edges)]
        readers = [node for node in readers if block.activation in node.all_input_nodes]
        first = min(readers, key=lambda node: draft.program.by_name[node.name].index, default=None)
        if first is not None:
            value = _norm(draft, block, first, path, "pre_norm") if norm else block.merge
            args, kwargs = block.activation.args[1:], block.activation.kwargs
            moved = draft.call(first, block.activation.target, value, *args, **kwargs)
            for reader in readers:
                reader.replace_input_with(block.activation, moved)
    if norm and block.activation.users:
        value = _norm(draft, block, block.activation, block.path, "post_norm")
        block.activation.replace_input_with(block.merge, value)


def _norm(draft: Draft, block: _Block, before: Node, path: str, name: str) -> Node:
    """A batch norm of a block's sum that changes nothing at first."""
    like = block.merge
    tensors = batch_norm(draft, path, name, like.meta["val"].shape[1], like=like)
    return draft.call(before, aten.batch_norm.default, like, *tensors, False, *block.settings)
