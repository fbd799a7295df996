"""The operands of a merge as numbers by sample: what each brings into it."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from skiplab.execute import Edge
from skiplab.merges import Merge, merge_at
from skiplab.ops import Op, is_concat
from skiplab.program import Program
from skiplab.skips import Skip

Ready = Callable[[list[Tensor]], None]


def entries(program: Program, merge: Merge) -> list[tuple[Edge, float]]:
    """The edges into a merge, each with the factor by which its value enters (−1 where it is subtracted)."""
    inner = dict.fromkeys(merge.readers, 1.0)
    factor = {merge.op.index: 1.0}
    for index in sorted(inner, reverse=True):  # from the last addition of the chain to the first
        for operand in program.ops[index].inputs:
            if operand in inner and operand != merge.op.index:
                factor[operand] = factor[index] * _factor(program, index, operand)
    return [
        ((program.ops[reader].name, program.ops[operand].name), factor[reader] * _factor(program, reader, operand))
        for operand, reader in zip(merge.operands, merge.readers, strict=True)
    ]


def gathered(program: Program, merge: Merge, ready: Ready) -> dict[Edge, Callable[[Any], Any]]:
    """Patches that change nothing, and call `ready` with the operands, in order, once all have passed.

    Each comes as it enters an addition: times its factor, in the sum's shape.
    """
    seen: dict[int, Tensor] = {}
    places: dict[Edge, list[int]] = {}
    factors = []
    for place, (edge, factor) in enumerate(entries(program, merge)):
        places.setdefault(edge, []).append(place)
        factors.append(factor)

    def see(edge: Edge) -> Callable[[Any], Any]:
        def patch(value: Any) -> Any:
            kept = value.detach()
            seen.update((place, kept if factors[place] == 1 else factors[place] * kept) for place in places[edge])
            if len(seen) == len(factors):
                values = [seen.pop(place) for place in range(len(factors))]
                ready(values if is_concat(merge.op.target) else list(torch.broadcast_tensors(*values)))
            return value

        return patch

    return {edge: see(edge) for edge in places}


def merges_of(program: Program, skips: Iterable[Skip]) -> dict[str, Merge]:
    """Each merge once, by name."""
    return {name: merge_at(program, name) for name in dict.fromkeys(skip.merge for skip in skips)}


def by_sample(program: Program, op: Op, value: Tensor, size: int) -> Tensor:
    """A value of `op` as (samples, everything else), in single precision at least.

    Samples lie along the dimension that grows with the batch (the second one in a network that takes sequences
    first), perhaps several entries each (the windows of an image). Where they cannot be told apart, the batch
    counts as one sample.
    """
    dim = sample_dimension(program, op)
    value = value.movedim(dim, 0) if dim else value
    samples = size if value.ndim and len(value) % size == 0 else 1
    value = value.reshape(samples, -1)
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value


def sample_dimension(program: Program, op: Op) -> int:
    """The dimension of an op's value that grows with the batch, the first where none is known to."""
    return next((i for i, n in enumerate(op.shape) if n is None), 0) if program.dynamic_batch else 0


def stacked(tables: list[Tensor]) -> Tensor:
    """(samples, tables, quantities) of tables (samples, quantities); the one row of a value shared by all samples
    is followed by NaN."""
    size = max(map(len, tables))
    nothing = [table.new_full((size - len(table), *table.shape[1:]), torch.nan) for table in tables]
    return torch.stack([torch.cat(pair) for pair in zip(tables, nothing, strict=True)], dim=1)


def _factor(program: Program, reader: int, operand: int) -> float:
    """alpha, and a minus sign where the operator subtracts this operand."""
    node = program.nodes[program.ops[reader].name]
    name = program.ops[reader].target
    if is_concat(name):
        return 1.0
    alpha = node.kwargs.get("alpha", node.args[2] if len(node.args) > 2 else 1)
    alpha = float(alpha) if isinstance(alpha, (int, float)) else 1.0
    scaled = -alpha if name in ("sub", "subtract", "rsub") else alpha
    found = [
        scaled if place == (0 if name == "rsub" else 1) else 1.0
        for place, argument in enumerate(node.args[:2])
        if isinstance(argument, Node) and argument.name == program.ops[operand].name
    ]
    # An addition that reads one value twice has an entry for each reading.
    return sum(found) / len(found) if found else 1.0
