"""The operands of a merge as numbers by sample: what each brings into it."""

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
    """Patches that change nothing, and call `ready` with the operands, in order, once all have passed.

    Those of an addition come in the sum's shape.
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


def by_sample(program: Program, op: Op, value: Tensor, size: int) -> Tensor:
    """A value of `op` as (samples, everything else), in single precision at least.

    Samples lie along the dimension that grows with the batch (the second one in a block that takes sequences first),
    perhaps several entries each (the windows of an image). Where they cannot be told apart, the batch counts as one
    sample.
    """
    dim = sample_dimension(program, op, size)
    value = value.reshape(1, -1) if dim is None else value.movedim(dim, 0).reshape(size, -1)
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value


def sample_dimension(program: Program, op: Op, size: int) -> int | None:
    """The dimension of an op's value along which a batch of `size` samples lies; None where there is none.

    In a program of free batch size it is the one that grows with the batch; else the first, if it has that size.
    """
    if program.dynamic_batch:
        return next((i for i, n in enumerate(op.shape) if n is None), None)
    return 0 if op.shape[:1] == (size,) else None


def pad_stack(tables: list[Tensor]) -> Tensor:
    """(samples, tables, quantities) of tables (samples, quantities); the one row of a value shared by all samples
    is followed by NaN."""
    size = max(map(len, tables))
    nothing = [table.new_full((size - len(table), *table.shape[1:]), torch.nan) for table in tables]
    return torch.stack([torch.cat(pair) for pair in zip(tables, nothing, strict=True)], dim=1)
