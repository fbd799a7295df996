"""Block influence: the change in direction of the values in a block, a cheap estimate of the cost of its removal."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from skiplab.data.bound_batches import Batch
from skiplab.graph.interpreter import Execution
from skiplab.graph.program import Program
from skiplab.measure.batches import map_batches
from skiplab.pruning.units import Unit


def influence(program: Program, units: Sequence[Unit], batches: Iterable[Batch]) -> list[float]:
    """1 − E[cos(x, y)] of each unit, where x is the shortcut at its first merge and y the sum at its last.

    Cosines are taken over channels, one for each position of each sample, and are dimensionless: 0 where the unit only
    scales its input, 1 where output and input are orthogonal. Infinite where x and y differ in shape (a concatenation,
    a unit in which the resolution changes). Men et al. 2024, ShortGPT, arXiv:2403.03853, §3.1.
    """
    pairs = [(unit.skips[0].operand, unit.skips[-1].merge) for unit in units]
    ops = program.by_name
    alike = [ops[x].shape == ops[y].shape for x, y in pairs]
    ends = [(y, program.layouts[ops[y].index]) for _, y in pairs]
    dims = [end.require_channels(f"`{y}`") if same else 0 for (y, end), same in zip(ends, alike, strict=True)]
    sums, counts = [0.0] * len(units), [0] * len(units)

    def work(given) -> list[tuple[float, int]]:
        values: dict[str, Tensor] = {}
        names = {name for pair, same in zip(pairs, alike, strict=True) if same for name in pair}
        watch: dict[str, Callable[[Tensor], None]] = {name: _recorder(values, name) for name in names}
        with torch.no_grad():
            Execution(program, given.args, given.kwargs, watch=watch).finish()
        return [
            _cosines(values[x], values[y], dim) if same else (0.0, 0)
            for (x, y), dim, same in zip(pairs, dims, alike, strict=True)
        ]

    for _, found in map_batches(program, batches, work):
        for place, (total, count) in enumerate(found):
            sums[place] += total
            counts[place] += count
    return [1 - total / count if count else torch.inf for total, count in zip(sums, counts, strict=True)]


def _recorder(values: dict[str, Tensor], name: str) -> Callable[[Tensor], None]:
    return lambda value: values.update({name: value})


def _cosines(x: Tensor, y: Tensor, dim: int) -> tuple[float, int]:
    """Sum and number of the cosines."""
    cosines = torch.cosine_similarity(x.double(), y.double(), dim)
    return float(cosines.sum()), cosines.numel()
