"""Gates, which decide from the data how much each way of a skip connection brings."""

import math
from typing import Literal

import torch
from torch import Tensor
from torch.fx import Node

from skiplab.analysis.edges import branch_edges, shortcut_edges, start
from skiplab.analysis.skips import Skip, Skips
from skiplab.edit.graph_editor import Draft
from skiplab.edit.new_layers import as_kernel, can_project, projection
from skiplab.errors import UsageError
from skiplab.graph.program import Program

Form = Literal["exclusive", "shortcut-only"]
aten = torch.ops.aten


def gate(program: Program, skips: Skips, bias: float = 0.0, form: Form = "exclusive", seed: int = 0) -> Program:
    """Puts a gate g = σ(Wx + b) on skip connections: (1 − g)·x + g·F(x), or with x alone gated, (1 − g)·x + F(x).

    x is what the shortcut brings; W is a 1×1 convolution of images and a linear layer of everything else, one gate a
    channel. He et al. 2016, Identity Mappings in Deep Residual Networks, arXiv:1603.05027, §3.1 and Table 1.

    Args:
        program: the network.
        skips: those to gate, joined by addition.
        bias: where b starts. σ(b) is the branch's share at first; He et al. searched 0 to −10 for exclusive gates and
            found 0 too open for the shortcut's sake.
        form: "exclusive" or "shortcut-only".
        seed: of W, drawn as `nn.Linear` and `nn.Conv2d` draw theirs.

    Raises:
        StaleSkip: for skips of another program.
        UsageError: for a concatenation, for the cell state of a fused recurrent operator, and for values whose
            channels are neither their second dimension nor their last.
    """
    skips.check(program).require_merges()
    if form not in ("exclusive", "shortcut-only"):
        raise UsageError(f"form={form!r}: choose exclusive or shortcut-only")
    draft = Draft(program)
    generator = torch.Generator().manual_seed(seed)
    merges: set[str] = set()
    for skip in skips:
        if skip.combine == "concat":
            raise UsageError(f"`{skip.id}` is a concatenation, which has no gated form: see concat_to_add")
        if skip.merge in merges:
            raise UsageError(f"`{skip.id}` ends where another skip does: gate one of the two")
        merges.add(skip.merge)
        _gated(draft, skip, bias, form, generator)
    return draft.done()


def highway(program: Program, skips: Skips, bias: float = -1.0, seed: int = 0) -> Program:
    """Skip connections as those of a highway network: T·F(x) + (1 − T)·x, with the transform gate T mostly closed.

    Srivastava et al. 2015, Training Very Deep Networks, arXiv:1507.06228, §2; the bias is from −1 to −10 at first (§3).
    """
    return gate(program, skips, bias, "exclusive", seed)


def _gated(draft: Draft, skip: Skip, bias: float, form: Form, generator: torch.Generator) -> None:
    """The gate is computed before the first op that reads either way."""
    program = draft.program
    light, heavy = shortcut_edges(program, skip), branch_edges(program, skip)
    carried = draft.nodes[skip.operand]
    reader = program.ops[start(program, (*light, *heavy) if form == "exclusive" else light)]
    first = draft.nodes[reader.name]
    if reader.index <= program.by_name[skip.operand].index:
        raise UsageError(
            f"`{skip.id}`: its branches are summed (`{first.name}`) before its shortcut is computed, so that no gate "
            "of the shortcut can reach them: use form 'shortcut-only', or add the shortcut first in `forward`"
        )
    opened = _gate(draft, skip, carried, first, bias, generator)
    closed = draft.call(first, aten.rsub.Scalar, opened, 1)
    for edges, factor in ((light, closed), (heavy, opened if form == "exclusive" else None)):
        for edge in edges if factor is not None else ():
            operand = draft.nodes[edge[1]]
            draft.redirect(edge, draft.call(draft.nodes[edge[0]], aten.mul.Tensor, operand, factor))


def _gate(draft: Draft, skip: Skip, carried: Node, before: Node, bias: float, generator: torch.Generator) -> Node:
    op = draft.program.by_name[carried.name]
    dim = draft.program.layouts[op.index].require_channels(f"`{op.name}`")
    size, rank = op.shape[dim], len(op.shape)
    if size is None or not can_project(rank, dim):
        raise UsageError(f"`{skip.id}`: a gate needs channels in dimension 1 or last, and {op.shape} has them in {dim}")
    kernel = as_kernel(_uniform((size, size), size, generator), rank, dim)
    weight = draft.parameter(skip.path, "gate_weight", kernel, like=carried)
    offset = draft.parameter(skip.path, "gate_bias", torch.full((size,), bias), like=carried)
    return draft.call(before, aten.sigmoid.default, draft.call(before, projection(rank, dim), carried, weight, offset))


def _uniform(shape: tuple[int, ...], inputs: int, generator: torch.Generator) -> Tensor:
    bound = 1 / math.sqrt(inputs)
    return torch.empty(shape).uniform_(-bound, bound, generator=generator)
