"""Take blocks out of a network, those that it misses least, and say what each costs and saves."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict, Unpack, get_args

import pandas as pd

from skiplab.analysis.skips import Skips
from skiplab.data.bound_batches import Batch, require_again
from skiplab.edit import recalibrate, remove_branch
from skiplab.errors import UsageError
from skiplab.graph.program import Program
from skiplab.measure.batches import Loss
from skiplab.measure.ggn_probe import Probe
from skiplab.measure.lesions.batchnorm import find_batch_norms
from skiplab.pruning import ranking, units
from skiplab.pruning.block_influence import influence
from skiplab.pruning.evaluation import Judge
from skiplab.pruning.finetune import finetuned
from skiplab.pruning.units import Unit, Units
from skiplab.validation import checked

__all__ = ["Judge", "Pruned", "Unit", "Units", "finetuned", "influence", "prune"]

TARGETS = ("keep", "max_change", "latency")


class Options(TypedDict, total=False):
    """Keyword options of `prune`. At most one of the first three says how far to go; without any, to the end."""

    keep: float
    """The share of blocks that is kept at most, 0 to 1."""
    max_change: float
    """By how much the metric (the loss, where there is no metric) may rise at most on `test`."""
    latency: float
    """The ratio of latencies to come down to."""
    by: ranking.Criterion
    """What blocks are ranked by: "lesion" (default), "influence", "random", or their place, "first" or "last"."""
    greedy: bool
    """Whether what is left is ranked anew after each removal (default), or all once."""
    unit: units.By
    """Whether each block is removed by itself, "block" (default), or all that end in one module's `forward`."""
    candidates: int
    """Of how many the lesion is measured exactly, those with the lowest estimates: 6."""
    probe: Probe | None
    """What the estimate needs where `loss` is not torch's own; see `skiplab.measure.estimate`."""
    seed: int
    """Of a random order, and of the intervals: 0."""
    progress: Callable[[int, int], None]
    """Called with how many blocks are gone, and how many there are to go at most."""
    before: Sequence[Mapping[str, Any]]
    """Rows of the frontier that an earlier call has come to, from which this one goes on: ()."""
    on_row: Callable[[Mapping[str, Any]], None]
    """Called with each new row of the frontier."""


@dataclass(frozen=True, eq=False)
class Pruned:
    """What pruning came to.

    Attributes:
        frontier: one row a network, the whole one first: blocks (left), share (of all blocks), removed (id of the last
            one that went), score (by which it was chosen), and the columns of `Judge.row`.
        programs: the networks, in the same order.
        chosen: the row of the one that meets the target.
        judge: what has judged them, for a network that is made of one of them.
    """

    frontier: pd.DataFrame
    programs: tuple[Program, ...]
    chosen: int
    judge: Judge

    @property
    def program(self) -> Program:
        """The network that meets the target."""
        return self.programs[self.chosen]


def prune(
    program: Program,
    skips: Skips,
    batches: Iterable[Batch],
    test: Iterable[Batch],
    loss: Loss,
    metric: Loss | None = None,
    **options: Unpack[Options],
) -> Pruned:
    """Removes the branches of blocks, one block after the other, the least missed first.

    After each removal the statistics of batch norms, if any, are estimated anew on `batches`. Nothing is trained; see
    `finetuned`. Veit et al. 2016, arXiv:1605.06431, §4; Men et al. 2024, ShortGPT, arXiv:2403.03853.

    Args:
        program: the captured, trained network.
        skips: those whose branches may go.
        batches: pairs (inputs, target) to rank blocks and to estimate statistics on, gone through several times.
        test: pairs to judge networks on, which should be others.
        loss: (output, target) -> mean over the batch, or one value a sample.
        metric: a second quantity of the same form that is better when lower, such as the error rate.
        options: see `Options`.

    Raises:
        StaleSkip: for skips of another program.
        UsageError: for options that make no sense, a target that no removal meets, batches that can be read only once,
            and a network without blocks.
    """
    target = _target(options)
    require_again(batches, "blocks are ranked in several passes")
    left = Units(program, skips, options.get("unit", "block"))
    judge = Judge(program, test, loss, metric, options.get("seed", 0))
    known = list(options.get("before", ()))
    rows, programs, count = [], [], len(left.all)
    for smaller, unit, score in _Walk(left, batches, loss, options).networks(program):
        here = len(left.of(smaller))
        row = {"blocks": here, "share": here / count, "removed": unit, "score": score}
        row = dict(known[len(rows)]) if len(rows) < len(known) else row | judge.row(smaller)
        rows.append(row)
        programs.append(smaller)
        options.get("on_row", lambda _: None)(row)
        options.get("progress", lambda *_: None)(count - here, count)
        if _ends(row, target):
            break
    frontier = pd.DataFrame(rows)
    return Pruned(frontier, tuple(programs), _choice(frontier, target), judge)


class _Walk:
    """From the whole network to the one without any of the blocks."""

    def __init__(self, left: Units, batches: Iterable[Batch], loss: Loss, options: Options) -> None:
        self.left, self.batches, self.loss, self.options = left, batches, loss, options
        self.order: list[tuple[str, float]] | None = None
        if options.get("by") == "random":
            drawn = ranking.shuffled(left.all, options.get("seed", 0))
            self.order = [(unit.id, 0.0) for unit in drawn]

    def networks(self, program: Program) -> Iterator[tuple[Program, str, float]]:
        """Each with the block that went last, and its score; the whole network first."""
        yield program, "", float("nan")
        if self.order is None and not self.options.get("greedy", True):
            self.order = self._ranked(program, self.left.all)
        before = iter([row["removed"] for row in [*self.options.get("before", ())][1:]])
        while here := self.left.of(program):
            chosen = next(before, None)
            name, score = (chosen, float("nan")) if chosen is not None else self._next(program, here)
            unit = next((unit for unit in here if unit.id == name), None)
            if unit is None:
                raise UsageError(f"there is no block `{name}` (left) to remove: the blocks are {_listed(here)}")
            program = settled(remove_branch(program, Skips(unit.skips)), self.batches)
            yield program, name, score

    def _next(self, program: Program, here: list[Unit]) -> tuple[str, float]:
        if self.order is None:
            return self._ranked(program, here)[0]
        ids = {unit.id for unit in here}
        return next(pair for pair in self.order if pair[0] in ids)

    def _ranked(self, program: Program, units: list[Unit]) -> list[tuple[str, float]]:
        lesions = ranking.Lesions(self.loss, self.options.get("candidates", 6), self.options.get("probe"))
        found = ranking.ranked(program, units, self.batches, self.options.get("by", "lesion"), lesions)
        return [(unit.id, score) for unit, score in found]


def settled(program: Program, batches: Iterable[Batch]) -> Program:
    """The network with batch norm statistics of its own; itself where it has none."""
    return recalibrate(program, batches) if find_batch_norms(program) and not program.training else program


def _target(options: Options) -> tuple[str, float] | None:
    checked(options, Options.__annotations__, "prune")
    given = [(name, float(options.get(name, 0.0))) for name in TARGETS if name in options]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(name for name, _ in given)} exclude each other: give one target")
    for name, value in given:
        most = float("inf") if name == "max_change" else 1.0
        if not 0 <= value < most:
            raise UsageError(f"{name}={value:g}: give a number from 0 to below {most:g}")
    for name, choices in (("by", get_args(ranking.Criterion)), ("unit", get_args(units.By))):
        if options.get(name, choices[0]) not in choices:
            raise UsageError(f"{name}={options.get(name)!r}: choose {', '.join(choices)}")
    if options.get("candidates", 6) < 1:
        raise UsageError(f"candidates={options.get('candidates')}: give at least 1")
    return given[0] if given else None


def _ends(row: Mapping[Any, Any], target: tuple[str, float] | None) -> bool:
    """Whether the target is met, or, for a limit, overstepped."""
    if target is None:
        return False
    name, value = target
    if name == "max_change":
        return not _change(row) <= value
    return bool(row["removed"]) and row["share" if name == "keep" else "latency_ratio"] <= value + 1e-9


def _choice(frontier: pd.DataFrame, target: tuple[str, float] | None) -> int:
    rows = frontier.to_dict("records")
    if target is None:
        return len(rows) - 1
    if target[0] == "max_change":
        return max(place for place, row in enumerate(rows) if _change(row) <= target[1])
    if not _ends(rows[-1], target):
        reached = rows[-1]["share" if target[0] == "keep" else "latency_ratio"]
        raise UsageError(f"{target[0]}={target[1]:g} is out of reach: without all of its blocks it is {reached:.2g}")
    return len(rows) - 1


def _change(row: Mapping[Any, Any]) -> float:
    return row["metric_change" if "metric_change" in row else "loss_change"]


def _listed(units: list[Unit]) -> str:
    return ", ".join(unit.id for unit in units[:8]) + (", …" if len(units) > 8 else "")
