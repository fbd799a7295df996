"""Depth pruning: blocks are removed one after the other, the least missed first."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Unpack

import pandas as pd

from skiplab.analysis.skips import Skips
from skiplab.data.bound_batches import Batch, require_reiterable
from skiplab.edit import recalibrate, remove_branch
from skiplab.errors import UsageError
from skiplab.graph.program import Program
from skiplab.measure.batches import Loss
from skiplab.measure.lesions.batchnorm import find_batch_norms
from skiplab.measure.losses import named_loss
from skiplab.pruning import ranking
from skiplab.pruning.evaluation import Evaluator
from skiplab.pruning.options import PruneOptions, check_options
from skiplab.pruning.summary import PruningSummary, Quantity
from skiplab.pruning.target import target_of
from skiplab.pruning.units import Unit, Units


@dataclass(frozen=True, eq=False)
class Pruned:
    """The result of pruning.

    Attributes:
        frontier: one row per network, the whole one first: blocks (left), share (of all blocks), removed (id of the
            last block removed), score (by which it was chosen), and the columns of `Evaluator.row`.
        programs: the networks, in the same order.
        chosen: the row of the network that meets the target.
        evaluator: what measured the rows, for networks made from these.
    """

    frontier: pd.DataFrame
    programs: tuple[Program, ...]
    chosen: int
    evaluator: Evaluator

    @property
    def program(self) -> Program:
        """The network that meets the target."""
        return self.programs[self.chosen]

    def summary(
        self, quantity: Quantity | None = None, finetuned: Mapping[str, Any] | None = None, epochs: int = 0
    ) -> PruningSummary:
        """The frontier as a table for people, and in sentences; see `PruningSummary`."""
        return PruningSummary(self.frontier, self.chosen, quantity, finetuned, epochs)

    def answer(self, quantity: Quantity | None = None) -> list[str]:
        """What was removed, what it saves and what it costs, one sentence each.

        quantity: "error" where the metric is a share of samples, to be shown in percent.
        """
        return self.summary(quantity).answer()

    def plot(self) -> Any:
        """The metric, or the loss, of each network by the blocks left and by its latency; an Altair chart."""
        from skiplab.report import frontier_chart

        return frontier_chart(self.frontier, self.chosen)


def prune(
    program: Program,
    skips: Skips,
    batches: Iterable[Batch],
    test: Iterable[Batch],
    loss: Loss | str,
    metric: Loss | None = None,
    **options: Unpack[PruneOptions],
) -> Pruned:
    """Removes the branches of blocks, one block after the other, the least missed first.

    After each removal the statistics of batch norms, if any, are re-estimated on `batches`. Nothing is trained; see
    `finetuned`. Veit et al. 2016, arXiv:1605.06431, §4; Men et al. 2024, ShortGPT, arXiv:2403.03853.

    Args:
        program: the captured, trained network.
        skips: the skips whose branches may be removed.
        batches: pairs (inputs, target) that rank blocks and give statistics, read several times.
        test: pairs that evaluate networks; use other samples than in `batches`.
        loss: (output, target) -> mean over the batch, or one value per sample; or the name of one ("cross-entropy").
        metric: a second quantity of the same form that is better when lower, such as the error rate.
        options: see `PruneOptions`.

    Raises:
        StaleSkip: for skips of another program.
        UsageError: for options out of range, a target that no removal meets, batches that can be read only once, and a
            network without blocks.
    """
    check_options(options)
    target, loss = target_of(options), named_loss(loss)
    require_reiterable(batches, "blocks are ranked in several passes")
    units = Units(program, skips, options.get("unit", "block"))
    evaluator = Evaluator(program, test, loss, metric, options.get("seed", 0))
    known = list(options.get("before", ()))
    rows, programs, count = [], [], len(units.all)
    for smaller, removed, score in _Removal(units, batches, loss, options).networks(program):
        left = len(units.of(smaller))
        row = {"blocks": left, "share": left / count, "removed": removed, "score": score}
        row = dict(known[len(rows)]) if len(rows) < len(known) else row | evaluator.row(smaller)
        rows.append(row)
        programs.append(smaller)
        options.get("on_row", lambda _: None)(row)
        options.get("progress", lambda *_: None)(count - left, count)
        if target is not None and target.ends(row):
            break
    frontier = pd.DataFrame(rows)
    chosen = len(rows) - 1 if target is None else target.choose(frontier)
    return Pruned(frontier, tuple(programs), chosen, evaluator)


class _Removal:
    """Removal of one unit after the other, from the whole network to the one without any."""

    def __init__(self, units: Units, batches: Iterable[Batch], loss: Loss, options: Mapping[str, Any]) -> None:
        self.units, self.batches, self.loss, self.options = units, batches, loss, options
        self.order: list[tuple[str, float]] | None = None
        if options.get("by") == "random":
            self.order = [(unit.id, 0.0) for unit in ranking.shuffled(units.all, options.get("seed", 0))]

    def networks(self, program: Program) -> Iterator[tuple[Program, str, float]]:
        """Each network with the id of the unit removed last and its score; the whole network first."""
        yield program, "", float("nan")
        if self.order is None and not self.options.get("greedy", True):
            self.order = self._ranked(program, self.units.all)
        known = iter([row["removed"] for row in [*self.options.get("before", ())][1:]])
        while left := self.units.of(program):
            removed = next(known, None)
            name, score = (removed, float("nan")) if removed is not None else self._next(program, left)
            unit = next((unit for unit in left if unit.id == name), None)
            if unit is None:
                raise UsageError(f"there is no block `{name}` (left) to remove: the blocks are {_listed(left)}")
            program = with_own_statistics(remove_branch(program, Skips(unit.skips)), self.batches)
            yield program, name, score

    def _next(self, program: Program, left: list[Unit]) -> tuple[str, float]:
        if self.order is None:
            return self._ranked(program, left)[0]
        ids = {unit.id for unit in left}
        return next(pair for pair in self.order if pair[0] in ids)

    def _ranked(self, program: Program, units: list[Unit]) -> list[tuple[str, float]]:
        lesions = ranking.Lesions(self.loss, self.options.get("candidates", 6), self.options.get("probe"))
        found = ranking.ranked(program, units, self.batches, self.options.get("by", "lesion"), lesions)
        return [(unit.id, score) for unit, score in found]


def with_own_statistics(program: Program, batches: Iterable[Batch]) -> Program:
    """The network with re-estimated batch norm statistics; the same program where it has none."""
    return recalibrate(program, batches) if find_batch_norms(program) and not program.training else program


def _listed(units: list[Unit]) -> str:
    return ", ".join(unit.id for unit in units[:8]) + (", …" if len(units) > 8 else "")
