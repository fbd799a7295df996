"""Evaluation of smaller networks against the whole one: size, FLOPs, latency, loss and metric."""

import statistics
import time
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from skiplab.data.bound_batches import Batch, BoundBatch, require_reiterable, validate_batches
from skiplab.graph.interpreter import Execution
from skiplab.graph.program import Program
from skiplab.measure.batches import Loss, map_batches
from skiplab.measure.kernels import unfused_kernels
from skiplab.measure.lesions.bootstrap import intervals
from skiplab.measure.lesions.per_sample_loss import losses

ROUNDS = 15  # of timing, each of both networks in turn


class Evaluator:
    """Compares networks with the whole one, on the same samples.

    Args:
        program: the whole network.
        batches: pairs (inputs, target), read once for each network.
        loss, metric: (output, target) -> mean over the batch, or one value per sample.
        seed: seed of the bootstrap.
    """

    def __init__(self, program: Program, batches: Iterable[Batch], loss: Loss, metric: Loss | None, seed: int) -> None:
        require_reiterable(batches, "each network is evaluated on the same samples")
        self.program, self.batches, self.seed = program, batches, seed
        self.functions = {"loss": loss} if metric is None else {"loss": loss, "metric": metric}
        self.first = next(validate_batches(program, batches))
        self.whole, self.sizes = self._values(program)

    def row(self, program: Program) -> dict[str, Any]:
        """The numbers of one network.

        Columns: parameters; flops, per sample; latency_ratio and latency_ratio_min, to the whole network; loss and
        loss_change, the difference to the whole network paired by sample, each with the ends of its 95 % interval in
        _low and _high; and the same columns of the metric.
        """
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
        """Values of shape (samples, functions) with sizes 1; of batches where a function gives no value per sample."""

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
    """Floating-point operations per sample of convolutions and matrix products, by torch's `FlopCounterMode`."""
    with torch.no_grad(), unfused_kernels(program), FlopCounterMode(display=False) as counter:
        Execution(program, given.args, given.kwargs).finish()
    return round(counter.get_total_flops() / given.size)


def latency(whole: Program, smaller: Program, given: BoundBatch, rounds: int = ROUNDS) -> tuple[float, float]:
    """Ratio of two networks' forward times in one run: median over rounds, and ratio of the shortest times.

    In each round both modules run once on the same batch, in alternating order.
    """
    modules = whole.module(), smaller.module()
    times: list[tuple[float, float]] = []
    with torch.no_grad():
        for turn in range(-2, rounds):  # two rounds to warm up
            order = (0, 1) if turn % 2 else (1, 0)
            took = {place: _timed(modules[place], given) for place in order}
            if turn >= 0:
                times.append((took[0], took[1]))
    ratios = [smaller_time / whole_time for whole_time, smaller_time in times]
    return statistics.median(ratios), min(t for _, t in times) / min(t for t, _ in times)


def _timed(module: torch.nn.Module, given: BoundBatch) -> float:
    start = time.perf_counter()
    module(*given.args, **given.kwargs)
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
    return time.perf_counter() - start
