"""The operands of a merge, and their values by sample."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from skiplab.analysis.edges import into
from skiplab.analysis.merges import Merge, merge_at
from skiplab.analysis.skips import Skip
from skiplab.graph.interpreter import Edge
from skiplab.graph.ops import Op, is_concat
from skiplab.graph.program import Program

Ready = Callable[[list[Tensor]], None]


def collect_operands(program: Program, merge: Merge, ready: Ready) -> dict[Edge, Callable[[Any], Any]]:
    """Patches that change nothing and call `ready` with the operands, in order, once all have passed.

    The operands of an addition are broadcast to the sum's shape.
    """
    seen: dict[int, Tensor] = {}
    places: dict[Edge, list[int]] = {}
    count = len(merge.operands)
    for place, edge in enumerate(into(program, merge)):
        places.setdefault(edge, []).append(place)

    def see(edge: Edge) -> Callable[[Any], Any]:
        def patch(value: Any) -> Any:
            kept: Tensor = value.detach()
            seen.update((place, kept) for place in places[edge])
            if len(seen) == count:
                values = [seen.pop(place) for place in range(count)]
                ready(values if is_concat(merge.op.target) else list(torch.broadcast_tensors(*values)))
            return value

        return patch

    return {edge: see(edge) for edge in places}


def merges_of(program: Program, skips: Iterable[Skip]) -> dict[str, Merge]:
    """Each merge once, by name."""
    return {name: merge_at(program, name) for name in dict.fromkeys(skip.merge for skip in skips)}


def shortcut_positions(program: Program, merge: Merge, skip: Skip) -> list[int]:
    """Positions of the shortcut's value among a merge's operands: several where the value is added several times."""
    return [position for position, (_, operand) in enumerate(into(program, merge)) if operand == skip.operand]


def by_sample(program: Program, op: Op, value: Tensor, size: int) -> Tensor:
    """A value of `op` as (samples, everything else), in single precision at least.

    A sample may have several entries along its dimension (the windows of an image). What all samples share, or where
    they are not whole, counts as one sample.
    """
    rows = program.layouts[op.index].by_sample(value, size)
    return rows.float() if rows.dtype in (torch.float16, torch.bfloat16) else rows


def pad_stack(tables: list[Tensor]) -> Tensor:
    """Stacks tables (samples, quantities) to (samples, tables, quantities), padded with NaN.

    A value shared by all samples has a table of one row.
    """
    size = max(map(len, tables))
    nothing = [table.new_full((size - len(table), *table.shape[1:]), torch.nan) for table in tables]
    return torch.stack([torch.cat(pair) for pair in zip(tables, nothing, strict=True)], dim=1)
