"""What a skip connection costs: the memory that waits for its merge, and the work on both of its ways."""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from torch.fx import Node
from torch.utils.flop_counter import FlopCounterMode

from skiplab.analysis.edges import shortcut_edges
from skiplab.analysis.reachability import between
from skiplab.analysis.skips import Skip, Skips
from skiplab.data.bound_batches import Batch, BoundBatch
from skiplab.errors import UsageError
from skiplab.graph.interpreter import Execution
from skiplab.graph.program import Program
from skiplab.measure.batches import map_batches
from skiplab.measure.kernels import plain
from skiplab.measure.memory import live_bytes


def cost(program: Program, skips: Skips, batches: Iterable[Batch], repeats: int = 5) -> pd.DataFrame:
    """Memory held by each shortcut, and arithmetic, parameters and time of branch and shortcut.

    Memory, from the graph, for one sample: what is alive in a forward pass, less what would be alive if the
    shortcut did not enter the merge (`skiplab.measure.memory` says what is counted).

    - held_bytes: the most that is alive for the shortcut's sake alone at any op; held_ops: at how many ops there is
      any, the merge included; byte_ops: the sum over them, in bytes · ops.
    - peak_share: the part of the pass's largest need that would go with it, in [0, 1]; 0 where the peak lies
      elsewhere. (In training, where autograd keeps values for the backward pass, it would save less.)

    Work, over the ops between fork and merge; those on both ways count for the branch, the merge itself for none:

    - branch_flops, shortcut_flops: floating-point operations for one sample by torch's `FlopCounterMode`: of
      convolutions and matrix products alone (attention and recurrent layers are made of these), a multiplication and
      an addition being two.
    - branch_parameters: numbers in the parameters that the branch reads, each once.
    - branch_ms, shortcut_ms: time of these ops in whole passes on the first batch, in milliseconds: each op's least
      over the repeats, added up, and with `_median` each op's median. Each op is waited for, so that an accelerator
      gains nothing from running ahead.
    - share_of_time: branch_ms_median over the same of the whole pass. Branches that lie within each other share ops,
      so that the column need not sum to at most 1.

    Args:
        program: the captured network.
        skips: those to measure.
        batches: pairs (inputs, target); the first alone is used, its target not.
        repeats: passes that are timed, after one that is not.

    Returns:
        One row a skip: id, order, samples (of the batch), held_bytes, held_ops, byte_ops, peak_share, branch_flops,
        shortcut_flops, branch_parameters, branch_ms, branch_ms_median, shortcut_ms, shortcut_ms_median,
        share_of_time.
    """
    skips.check(program).require_merges()
    if repeats < 1:
        raise UsageError(f"repeats must be at least 1, got {repeats}")
    given, work = next(map_batches(program, batches, lambda given: _work(program, given, repeats)))
    live = live_bytes(program)
    rows = [
        [
            skip.id,
            program.by_name[skip.merge].index,
            given.size,
            *_held(program, skip, live),
            *_ways(program, skip, work),
        ]
        for skip in skips
    ]
    return pd.DataFrame(rows, columns=_COLUMNS)


_COLUMNS = """id order samples held_bytes held_ops byte_ops peak_share branch_flops shortcut_flops branch_parameters
 branch_ms branch_ms_median shortcut_ms shortcut_ms_median share_of_time""".split()


@dataclass(frozen=True, eq=False)
class _Work:
    """Of each op, flops for one sample, and least and median time; total is the median times' sum over all nodes."""

    flops: np.ndarray
    least: np.ndarray
    median: np.ndarray
    total: float


def _held(program: Program, skip: Skip, live: np.ndarray) -> list[float]:
    """held_bytes, held_ops, byte_ops, peak_share."""
    without = live_bytes(program, shortcut_edges(program, skip))
    position = {name: index for index, name in enumerate(program.nodes)}
    held = (live - without)[[position[op.name] for op in program.ops]]
    return [int(held.max()), int((held > 0).sum()), int(held.sum()), 1 - float(without.max() / live.max())]


def _ways(program: Program, skip: Skip, work: _Work) -> list[float]:
    """The columns from branch_flops on."""
    fork = program.by_name[skip.fork].index
    branch, light = (
        between(program, fork, (program.by_name[name].index for name in names))
        for names in (skip.branch, [skip.operand])
    )
    on_branch, on_shortcut = (sorted(way) for way in (branch, light - branch))
    flops = [int(work.flops[ops].sum()) for ops in (on_branch, on_shortcut)]
    times = [float(ms[ops].sum()) for ops in (on_branch, on_shortcut) for ms in (work.least, work.median)]
    return [*flops, _parameters(program, on_branch), *times, times[1] / work.total]


def _parameters(program: Program, ops: list[int]) -> int:
    names = {name for index in ops for name in program.ops[index].weights}
    return sum(program.tensors[node].numel() for node, name in program.parameters.items() if name in names)


def _work(program: Program, given: BoundBatch, repeats: int) -> _Work:
    counted = _Counted(program, given.args, given.kwargs)
    passes = []
    with torch.no_grad():
        with plain(program):
            counted.run_until()
        for _ in range(1 + repeats):
            passes.append(_Timed(program, given.args, given.kwargs))
            passes[-1].run_until()
    ms = pd.DataFrame([each_pass.ms for each_pass in passes[1:]])
    names = [op.name for op in program.ops]
    flops = np.array([counted.flops[name] for name in names]) / given.size
    least, median = ms.min(), ms.median()
    return _Work(flops.round(), least[names].to_numpy(), median[names].to_numpy(), float(median.sum()))


class _Counted(Execution):
    """A pass that counts the floating-point operations of each node."""

    def run_until(self, name: str | None = None) -> Self:
        self.flops: dict[str, int] = {}
        return super().run_until(name)

    def run_node(self, n: Node) -> Any:
        with FlopCounterMode(display=False) as counter:
            value = super().run_node(n)
        self.flops[n.name] = counter.get_total_flops()
        return value


class _Timed(Execution):
    """A pass that times each node, in milliseconds."""

    def run_until(self, name: str | None = None) -> Self:
        self.ms: dict[str, float] = {}
        return super().run_until(name)

    def run_node(self, n: Node) -> Any:
        start = time.perf_counter()
        value = super().run_node(n)
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()
        self.ms[n.name] = 1000 * (time.perf_counter() - start)
        return value
