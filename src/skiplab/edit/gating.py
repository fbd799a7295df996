"""Gates on skip connections: data-dependent factors on the shortcut and the branch."""

import math
from typing import Literal

import torch
from torch import Tensor
from torch.fx import Node

from skiplab.analysis.edges import branch_edges, shortcut_edges, start
from skiplab.analysis.skips import Skip, Skips
from skiplab.edit.graph_editor import GraphEditor
from skiplab.edit.new_layers import as_kernel, can_project, projection
from skiplab.errors import UsageError
from skiplab.graph.program import Program

Form = Literal["exclusive", "shortcut-only"]
aten = torch.ops.aten


def gate(program: Program, skips: Skips, bias: float = 0.0, form: Form = "exclusive", seed: int = 0) -> Program:
    """Multiplies shortcut and branch by a learned gate: (1 − g)·x + g·F(x), with g = σ(Wx + b).

    x is the value of the shortcut. W is a 1×1 convolution for images and a linear layer for everything else, with one
    gate per channel. The new tensors are the parameters `gate_weight` and `gate_bias` of the module that holds the
    merge. He et al. 2016, Identity Mappings in Deep Residual Networks, arXiv:1603.05027, §3.1 and Table 1.

    Args:
        program: the network.
        skips: the skips to gate; each joins by addition.
        bias: initial value of b; σ(b) is the initial share of the branch. He et al. search 0 to −10 for exclusive
            gates, where 0 closes the shortcut too much.
        form: gate both ways ("exclusive") or the shortcut alone ("shortcut-only"): (1 − g)·x + F(x).
        seed: seed of W, drawn as `nn.Linear` and `nn.Conv2d` draw theirs.

    Raises:
        StaleSkip: for skips of another program.
        UsageError: for a concatenation, for the cell state of a fused recurrent operator, and for values whose
            channels are neither their second dimension nor their last.
    """
    skips.check(program).require_merges()
    if form not in ("exclusive", "shortcut-only"):
        raise UsageError(f"form={form!r}: choose exclusive or shortcut-only")
    editor = GraphEditor(program)
    generator = torch.Generator().manual_seed(seed)
    merges: set[str] = set()
    for skip in skips:
        if skip.combine == "concat":
            raise UsageError(f"`{skip.id}` is a concatenation, which has no gated form: see concat_to_add")
        if skip.merge in merges:
            raise UsageError(f"`{skip.id}` ends at the merge of another skip: gate one of the two")
        merges.add(skip.merge)
        _add_gate(editor, skip, bias, form, generator)
    return editor.finish()


def highway(program: Program, skips: Skips, bias: float = -1.0, seed: int = 0) -> Program:
    """Turns skips into those of a highway network: T·F(x) + (1 − T)·x, with the transform gate T = σ(Wx + b).

    Srivastava et al. 2015, Training Very Deep Networks, arXiv:1507.06228, §2. It is `gate` with a gate that starts
    mostly closed.

    Args:
        program: the network.
        skips: the skips to gate; each joins by addition.
        bias: initial value of b; the paper uses −1 to −10 (§3).
        seed: seed of W.
    """
    return gate(program, skips, bias, "exclusive", seed)


def _add_gate(editor: GraphEditor, skip: Skip, bias: float, form: Form, generator: torch.Generator) -> None:
    """Computes the gate before the first op that reads one of the values it multiplies."""
    program = editor.program
    light, heavy = shortcut_edges(program, skip), branch_edges(program, skip)
    carried = editor.nodes[skip.operand]
    reader = program.ops[start(program, (*light, *heavy) if form == "exclusive" else light)]
    first = editor.nodes[reader.name]
    if reader.index <= program.by_name[skip.operand].index:
        raise UsageError(
            f"`{skip.id}`: its branches are summed (`{first.name}`) before its shortcut is computed, so a gate of the "
            "shortcut cannot reach them: use form 'shortcut-only', or add the shortcut first in `forward`"
        )
    opened = _gate_value(editor, skip, carried, first, (bias, generator))
    closed = editor.call(first, aten.rsub.Scalar, opened, 1)
    for edges, factor in ((light, closed), (heavy, opened if form == "exclusive" else None)):
        for edge in edges if factor is not None else ():
            operand = editor.nodes[edge[1]]
            editor.redirect(edge, editor.call(editor.nodes[edge[0]], aten.mul.Tensor, operand, factor))


def _gate_value(
    editor: GraphEditor, skip: Skip, carried: Node, before: Node, initial: tuple[float, torch.Generator]
) -> Node:
    """σ(Wx + b), with new parameters W and b."""
    bias, generator = initial
    op = editor.program.by_name[carried.name]
    dim = editor.program.layouts[op.index].require_channels(f"`{op.name}`")
    size, rank = op.shape[dim], len(op.shape)
    if size is None or not can_project(rank, dim):
        raise UsageError(f"`{skip.id}`: a gate needs channels in dimension 1 or last, and {op.shape} has them in {dim}")
    kernel = as_kernel(_uniform((size, size), size, generator), rank, dim)
    weight = editor.parameter(skip.path, "gate_weight", kernel, like=carried)
    offset = editor.parameter(skip.path, "gate_bias", torch.full((size,), bias), like=carried)
    logit = editor.call(before, projection(rank, dim), carried, weight, offset)
    return editor.call(before, aten.sigmoid.default, logit)


def _uniform(shape: tuple[int, ...], fan_in: int, generator: torch.Generator) -> Tensor:
    bound = 1 / math.sqrt(fan_in)
    return torch.empty(shape).uniform_(-bound, bound, generator=generator)
