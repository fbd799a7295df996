"""What a skip connection costs: the memory held until its merge, and the work on branch and shortcut."""

import time
from collections.abc import Iterable, Iterator
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
from skiplab.measure.kernels import unfused_kernels
from skiplab.measure.memory import live_bytes
from skiplab.measure.protocol import ORDER, SAMPLES, SKIP_ID, Measure
from skiplab.measure.table import MeasureTable
from skiplab.stats.columns import Column
from skiplab.stats.wording import extremes, finite_in, memory, row_at


def cost(program: Program, skips: Skips, batches: Iterable[Batch], repeats: int = 5) -> MeasureTable:
    """Memory held by each shortcut, and arithmetic, parameters and time of branch and shortcut.

    Memory, from the graph, for one sample: live bytes in a forward pass, minus live bytes if the shortcut did not
    enter the merge (`skiplab.measure.memory` documents what counts).

    - held_bytes: the maximum of this difference over all ops; held_ops: at how many ops it is not zero, the merge
      included; byte_ops: its sum over ops, in bytes · ops.
    - peak_share: the part of the pass's peak memory that would be saved, in [0, 1]; 0 where the peak lies elsewhere.
      (In training, autograd keeps values for the backward pass, and less would be saved.)

    Work, over the ops between fork and merge; ops on both count for the branch, and the merge for neither:

    - branch_flops, shortcut_flops: floating-point operations for one sample by torch's `FlopCounterMode`: only of
      convolutions and matrix products (attention and recurrent layers consist of these); a multiply-add counts as two.
    - branch_parameters: number of parameters that the branch reads, each once.
    - branch_ms, shortcut_ms: time of these ops in whole passes on the first batch, in milliseconds: the sum of each
      op's minimum over the repeats, and with `_median` of each op's median. The device is synchronized after each op,
      so that an accelerator gains nothing from asynchronous execution.
    - share_of_time: branch_ms_median over that of the whole pass. Nested branches share ops, so the column may sum to
      more than 1.

    Args:
        program: the captured network.
        skips: those to measure.
        batches: pairs (inputs, target); only the first is used, without its target.
        repeats: number of timed passes, after a warm-up pass.

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
    rows = []
    for skip in skips:
        about = [skip.id, program.by_name[skip.merge].index, given.size]
        rows.append([*about, *_held(program, skip, live), *_ways(program, skip, work)])
    return MeasureTable.of(__name__, pd.DataFrame(rows, columns=_COLUMNS))


_COLUMNS = """id order samples held_bytes held_ops byte_ops peak_share branch_flops shortcut_flops branch_parameters
 branch_ms branch_ms_median shortcut_ms shortcut_ms_median share_of_time""".split()


@dataclass(frozen=True, eq=False)
class _Work:
    """For each op, flops for one sample, minimum and median time; `total` sums the median times of all nodes."""

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
        with unfused_kernels(program):
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


def sentences(table: pd.DataFrame) -> Iterator[str]:
    """The shortcut that holds most memory, and the branches' shares of the time."""
    held = finite_in(table, "held_bytes")
    if len(held):
        most = row_at(held, held["held_bytes"].argmax())
        yield (
            f"The shortcut that holds most memory in a forward pass is `{most['id']}`: "
            f"{memory(float(most['held_bytes']))} for one sample, over {int(most['held_ops'])} operations."
        )
    shares = finite_in(table, "share_of_time")
    if len(shares):
        yield f"Of the whole network's time a branch takes {extremes(shares, 'share_of_time', '.1%')}."


MEASURE = Measure(
    function=cost,
    run=lambda inputs: cost(inputs.program, inputs.skips, inputs.batches),
    sentences=sentences,
    columns=(
        SKIP_ID,
        ORDER,
        SAMPLES,
        Column("held", "held_bytes", "bytes", doc="most memory that is held only for the shortcut", unit="B a sample"),
        Column("over ops", "held_ops", doc="number of ops during which it holds any"),
        Column("", "byte_ops", doc="sum of the held memory over ops", unit="B · ops a sample"),
        Column("", "peak_share", doc="share of the pass's peak memory that is held for the shortcut"),
        Column("", "branch_flops", doc="floating-point operations of the branch", unit="FLOPs a sample"),
        Column("", "shortcut_flops", doc="floating-point operations of the shortcut", unit="FLOPs a sample"),
        Column("", "branch_parameters", doc="number of parameters that the branch reads"),
        Column("branch ms", "branch_ms", doc="least time of the branch's ops", unit="ms a batch"),
        Column("shortcut ms", "shortcut_ms", doc="least time of the shortcut's ops", unit="ms a batch"),
        Column("of time", "share_of_time", "share", doc="median time of the branch over that of the whole pass"),
    ),
    title="Cost",
    reading="Memory that a shortcut holds while its branch runs, and the time that both take.",
    chart="cost",
)
