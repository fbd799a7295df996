"""Skips inside fused recurrent operators: a gate carries the cell state of an LSTM or GRU past a step.

c′ = f·c + i·g (LSTM; Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000) and
h′ = (1 − z)·n + z·h (GRU; Cho et al. 2014) are gated sums. `nn.LSTM` computes all steps in one operator, so the graph
shows no merge; one record stands for a layer and direction, with the number of steps. An Elman RNN has no skip.
"""

import torch
from torch import Tensor
from torch.fx import Node

from skiplab.analysis.skip_records import SkipCandidate
from skiplab.analysis.skips import Skip
from skiplab.graph.ops import op_info
from skiplab.graph.program import Op, Program
from skiplab.graph.torch_compat import schema_of


def cell_skips(program: Program) -> list[SkipCandidate]:
    """The gated skips inside fused operators, layer by layer; of two directions the forward one comes first."""
    found = []
    for op in program.ops:
        cell = op_info(op.target).gated_cell
        if cell == "all steps":
            node = program.nodes[op.name]
            layers, steps = _layers_and_steps(node)
            found += [_candidate(program, op, steps) for _ in range(layers)]
        elif cell == "one step" and _state_is_data(program, op):
            found.append(_candidate(program, op, 1))
    return found


def _candidate(program: Program, op: Op, steps: int) -> SkipCandidate:
    skip = Skip(
        id="",
        path=op.module,
        combine="gated",
        shortcut="gated",
        fork=op.name,
        merge=op.name,
        operand=op.name,
        branch=(op.name,),
        weight_layers=1,
        shortcut_weight_layers=0,
        long=False,
        shortcut_scale=(),
        branch_scale=(),
        gates=(),
        location="fused",
        steps=steps,
        activation_after=None,
        source=op.source,
        parent=None,
        program=program.fingerprint,
    )
    return SkipCandidate(op.index, skip, None)


def _layers_and_steps(node: Node) -> tuple[int, int]:
    """Layers times directions, and time steps on the example.

    `lstm.input(input, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first)`, or for a
    packed sequence `lstm.data(data, batch_sizes, hx, params, has_biases, num_layers, dropout, train, bidirectional)`.
    """
    arguments = {a.name: v for a, v in zip(schema_of(node.target).arguments, node.args, strict=False)}
    arguments |= node.kwargs
    packed = "batch_sizes" in arguments
    value = arguments["batch_sizes" if packed else "input"].meta["val"]  # type: ignore[union-attr]
    assert isinstance(value, Tensor)
    first = packed or value.ndim == 2 or not arguments["batch_first"]
    directions = 2 if arguments["bidirectional"] else 1
    return int(arguments["num_layers"]) * directions, _hint(value.shape[0 if first else 1])  # type: ignore[arg-type]


def _hint(size: int | torch.SymInt) -> int:
    """A size; for a symbolic one, its value on the example."""
    return size if isinstance(size, int) else int(size.node.hint)


def _state_is_data(program: Program, op: Op) -> bool:
    """Whether the state depends on the data: a first step that starts from zeros carries nothing."""
    state = program.nodes[op.name].args[1]
    states = state if isinstance(state, (list, tuple)) else (state,)
    cell = states[-1]
    return isinstance(cell, Node) and cell.name in program.by_name
