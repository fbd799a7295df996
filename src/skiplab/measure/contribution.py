"""How much each branch adds to the signal that its shortcut carries."""

from collections.abc import Callable, Iterable, Iterator
from itertools import combinations

import pandas as pd
import torch
from torch import Tensor

from skiplab.analysis.merges import Merge
from skiplab.analysis.skips import Skip, Skips
from skiplab.data.bound_batches import Batch, BoundBatch
from skiplab.graph.interpreter import Edge, Patch
from skiplab.graph.ops import is_concat
from skiplab.graph.program import Program
from skiplab.measure.batches import finite
from skiplab.measure.merge_operands import by_sample, collect_operands, merges_of, pad_stack, shortcut_positions
from skiplab.measure.moments import Moments, column_names
from skiplab.measure.norms import norm
from skiplab.measure.observers import Gradients, Hooks, observe
from skiplab.measure.protocol import ORDER, SAMPLES, SKIP_ID, Measure
from skiplab.measure.table import MeasureTable
from skiplab.stats.columns import Column
from skiplab.stats.wording import counted, extremes, finite_in, intervals_of, short, sign_counts

QUANTITIES = ("ratio", "cosine", "growth", "influence")
COLUMNS = ["id", "order", "samples", *column_names(QUANTITIES)]


def contribution(program: Program, skips: Skips, batches: Iterable[Batch]) -> MeasureTable:
    """Size and direction of each branch's output F, compared with the signal x from the shortcut.

    Per sample, over all its other dimensions, at the merge; then mean and standard deviation over samples:

    - ratio: ‖F‖ / ‖x‖; NaN for samples whose x is zero.
    - cosine: ⟨F, x⟩ / (‖F‖ ‖x‖) in [−1, 1]: 0 where F and x do not overlap, −1 where F removes what x carries.
    - growth: ‖x + F‖ / ‖x‖.
    - influence: 1 − cos(x, x + F), how far the block turns the signal: 0 for a block that does nothing (block
      influence, Men et al. 2024, arXiv:2403.03853, §3.1, who take it token by token).

    All are dimensionless and invariant to the scale of the network's output. F is the merge without the shortcut: the
    signed sum of all other operands of an addition. For `concat` it is their concatenation, and only the ratio is
    defined; the others are NaN. Likewise x is the merge without all the other operands. Sums over a sample are taken
    in its own precision, in single precision at least. Compare Veit et al. 2016, §4; Greff et al. 2017, §3.

    Returns:
        One row a skip: id, order, samples, and each quantity with its `_std`.
    """
    observer = Contribution(program, skips)
    observe(program, batches, [observer])
    return MeasureTable.of(__name__, observer.table())


class Contribution:
    """`contribution` as an observer of a pass."""

    backward = False

    def __init__(self, program: Program, skips: Skips) -> None:
        self.program = program
        self.skips = skips.check(program).require_merges()
        self.merges = merges_of(program, skips)
        self.parts = {skip.id: _parts(program, self.merges[skip.merge], skip) for skip in skips}
        self.moments = Moments()
        self.samples = 0

    def make_hooks(self, given: BoundBatch) -> Hooks:
        """Hooks on the operands of every merge."""
        inner: dict[str, Tensor] = {}  # merge -> inner products of its operands

        def ready(merge: Merge) -> Callable[[list[Tensor]], None]:
            return lambda values: inner.update({merge.op.name: self._inner_products(merge, values, given.size)})

        edges: dict[Edge, Patch] = {}
        for merge in self.merges.values():
            edges.update(collect_operands(self.program, merge, ready(merge)))

        def commit(_: Gradients) -> None:
            if not inner:
                return
            finite(self.program, given, torch.stack([each.sum() for each in inner.values()]), "a value at a merge")
            found = [_quantities(inner[s.merge], *self.parts[s.id], concat=self._is_concat(s)) for s in self.skips]
            self.moments.add(pad_stack(found))
            self.samples += given.size

        return Hooks(commit, edges)

    def _inner_products(self, merge: Merge, values: list[Tensor], size: int) -> Tensor:
        """(samples, operands, operands): ⟨a, b⟩ of each pair for each sample; for a concat only the diagonal."""
        concat = is_concat(merge.op.target)
        ops = [self.program.ops[index] if concat else merge.op for index in merge.operands]
        rows = [by_sample(self.program, op, value, size) for op, value in zip(ops, values, strict=True)]
        squares = [norm(row, dim=1).square() for row in rows]
        products = torch.diag_embed(torch.stack(squares, dim=1))
        if not concat:
            for i, j in combinations(range(len(rows)), 2):
                products[:, i, j] = products[:, j, i] = (rows[i] * rows[j]).sum(1)
        return products

    def _is_concat(self, skip: Skip) -> bool:
        return is_concat(self.merges[skip.merge].op.target)

    def table(self) -> pd.DataFrame:
        """See `contribution`."""
        quantities = self.moments.columns()
        rows = [
            [skip.id, self.program.by_name[skip.merge].index, self.samples, *quantities[number]]
            for number, skip in enumerate(self.skips)
        ]
        return pd.DataFrame(rows, columns=COLUMNS)


def _parts(program: Program, merge: Merge, skip: Skip) -> tuple[list[int], list[int]]:
    """Positions of the shortcut's value among a merge's operands, and of all others."""
    own = shortcut_positions(program, merge, skip)
    return own, [position for position in range(len(merge.operands)) if position not in own]


def _quantities(inner: Tensor, shortcut: list[int], others: list[int], *, concat: bool) -> Tensor:
    """(samples, 4): `QUANTITIES` of one skip for each sample."""

    def total(some: list[int], more: list[int]) -> Tensor:
        return inner[:, some][:, :, more].sum((1, 2))

    xx, ff, xf = total(shortcut, shortcut), total(others, others), total(shortcut, others)
    # Where operands cancel, rounding can leave a square below zero.
    size, added, out = (square.clamp(min=0).sqrt() for square in (xx, ff, xx + 2 * xf + ff))
    found = torch.stack([added / size, xf / (added * size), out / size, 1 - (xx + xf) / (size * out)], dim=1)
    if concat:
        found[:, 1:] = torch.nan
    return torch.where((size > 0)[:, None] & found.isfinite(), found, torch.nan)


def sentences(table: pd.DataFrame) -> Iterator[str]:
    """The branches' size, and their direction."""
    ratio = finite_in(table, "ratio")
    if ratio.empty:
        yield "No skip has a shortcut whose signal is not zero, so the size of the branches has no reference."
        return
    yield (
        f"A branch is {short(ratio['ratio'].median())} times as large as what its shortcut brings, in the median of "
        f"{counted(ratio, 'skip')}: {extremes(ratio, 'ratio')}."
    )
    cosine = finite_in(table, "cosine")
    if len(cosine):
        yield (
            f"Its direction: the median cosine with the shortcut's signal is {cosine['cosine'].median():+.2f}; "
            f"{sign_counts(intervals_of(cosine, 'cosine'))}."
        )


MEASURE = Measure(
    function=contribution,
    run=lambda inputs: contribution(inputs.program, inputs.skips, inputs.batches),
    sentences=sentences,
    columns=(
        SKIP_ID,
        ORDER,
        SAMPLES,
        Column("‖F‖/‖x‖", "ratio", "std", doc="size of the branch's output F over that of the shortcut's x"),
        Column("cosine", "cosine", "std", doc="cosine of F and x"),
        Column("growth", "growth", "std", doc="‖x + F‖ / ‖x‖"),
        Column("", "influence", doc="1 − cos(x, x + F)"),
    ),
    title="Contribution",
    reading="Size of each branch's output relative to its shortcut's signal, and its direction: at a cosine of 0 the "
    "two do not overwrite each other. Lines: ± one standard deviation over samples.",
    chart="contribution",
    observer=Contribution,
    default=True,
)
