"""What a smaller network is worth beside the whole one: its size, its work, its time, and what it gets wrong."""

import statistics
import time
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from skiplab.data.bound_batches import Batch, BoundBatch, require_again, validate_batches
from skiplab.graph.interpreter import Execution
from skiplab.graph.program import Program
from skiplab.measure.batches import Loss, map_batches
from skiplab.measure.kernels import plain
from skiplab.measure.lesions.bootstrap import intervals
from skiplab.measure.lesions.per_sample_loss import losses

ROUNDS = 15  # of timing, each of both networks in turn


class Judge:
    """Holds networks against one, on the same samples.

    Args:
        program: the whole network.
        batches: pairs (inputs, target), gone through once for each network.
        loss, metric: (output, target) -> mean over the batch, or one value a sample.
        seed: of the intervals' resamples.
    """

    def __init__(self, program: Program, batches: Iterable[Batch], loss: Loss, metric: Loss | None, seed: int) -> None:
        require_again(batches, "each network is judged on the same samples")
        self.program, self.batches, self.seed = program, batches, seed
        self.functions = {"loss": loss} if metric is None else {"loss": loss, "metric": metric}
        self.first = next(validate_batches(program, batches))
        self.whole, self.sizes = self._values(program)

    def row(self, program: Program) -> dict[str, Any]:
        """parameters, flops, latency_ratio, latency_ratio_min; loss, loss_low, loss_high, loss_change and its ends;
        the same of the metric."""
        values, sizes = self._values(program)
        median, least = latency(self.program, program, self.first)
        row: dict[str, Any] = {"parameters": program.size, "flops": flops(program, self.first)}
        row |= {"latency_ratio": median, "latency_ratio_min": least}
        for place, name in enumerate(self.functions):
            mine, change = values[:, place : place + 1], (values - self.whole)[:, place : place + 1]
            for column, numbers in ((name, mine), (f"{name}_change", change)):
                low, high = intervals(numbers, sizes, self.seed)
                mean = float((numbers[:, 0] * sizes).sum() / sizes.sum())
                row |= {column: mean, f"{column}_low": float(low[0]), f"{column}_high": float(high[0])}
        return row

    def _values(self, program: Program) -> tuple[Tensor, Tensor]:
        """Of each sample, or where the functions are no means over samples of each batch: (units, functions), sizes."""

        def work(given: BoundBatch) -> tuple[Tensor, Tensor | None]:
            with torch.no_grad():
                output = Execution(program, given.args, given.kwargs).finish()
                return losses(list(self.functions.values()), output, given.target, given.size)

        found = [(given.size, *both) for given, both in map_batches(program, self.batches, work)]
        if all(samples is not None for _, _, samples in found):
            values = torch.cat([samples for _, _, samples in found if samples is not None])
            return values, torch.ones(len(values), dtype=torch.double)
        sizes = torch.tensor([size for size, _, _ in found], dtype=torch.double)
        return torch.stack([means for _, means, _ in found]), sizes


def flops(program: Program, given: BoundBatch) -> int:
    """Floating-point operations for one sample, by torch's `FlopCounterMode`: of convolutions and matrix products."""
    with torch.no_grad(), plain(program), FlopCounterMode(display=False) as counter:
        Execution(program, given.args, given.kwargs).finish()
    return round(counter.get_total_flops() / given.size)


def latency(whole: Program, other: Program, given: BoundBatch, rounds: int = ROUNDS) -> tuple[float, float]:
    """Time of one network's forward pass over that of another, in one run: median over rounds, and of least times.

    In each round both modules run once, on the same batch, one after the other in turns.
    """
    modules = whole.module(), other.module()
    times: list[tuple[float, float]] = []
    with torch.no_grad():
        for turn in range(-2, rounds):  # two rounds to warm up
            order = (0, 1) if turn % 2 else (1, 0)
            took = {place: _timed(modules[place], given) for place in order}
            if turn >= 0:
                times.append((took[0], took[1]))
    ratios = [other_time / whole_time for whole_time, other_time in times]
    return statistics.median(ratios), min(t for _, t in times) / min(t for t, _ in times)


def _timed(module: torch.nn.Module, given: BoundBatch) -> float:
    start = time.perf_counter()
    module(*given.args, **given.kwargs)
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
    return time.perf_counter() - start
