"""Which block is missed least: the orders in which blocks are removed."""

from collections.abc import Iterable, Sequence
from typing import Literal

import torch

from skiplab.measure import estimate, lesion
from skiplab.measure.batches import Batch, Loss
from skiplab.program import Program
from skiplab.pruner.influence import influence
from skiplab.pruner.units import Unit
from skiplab.skips import Skips

Criterion = Literal["lesion", "influence", "random", "first", "last"]


def ranked(
    program: Program, units: Sequence[Unit], batches: Iterable[Batch], loss: Loss, by: Criterion, candidates: int
) -> list[tuple[Unit, float]]:
    """Units with their scores, the one that is missed least first.

    "lesion": the change in loss when the unit's branches are deleted: estimated of all from two gradients, and exact
    for the `candidates` of which the estimate is lowest, which come first. "influence": see
    `skiplab.pruner.influence`. "first" and "last": by place in the network, score 0.
    """
    if by == "lesion":
        return _by_lesion(program, units, batches, loss, candidates)
    if by == "influence":
        scores = influence(program, units, batches)
        return sorted(zip(units, scores, strict=True), key=lambda pair: pair[1])
    return [(unit, 0.0) for unit in (reversed(units) if by == "last" else units)]


def shuffled(units: Sequence[Unit], seed: int) -> list[Unit]:
    order = torch.randperm(len(units), generator=torch.Generator().manual_seed(seed))
    return [units[place] for place in order.tolist()]


def _by_lesion(
    program: Program, units: Sequence[Unit], batches: Iterable[Batch], loss: Loss, candidates: int
) -> list[tuple[Unit, float]]:
    guessed = _estimated(program, units, batches, loss) if candidates < len(units) else dict.fromkeys(units, 0.0)
    order = sorted(units, key=lambda unit: guessed[unit])
    exact = _exact(program, order[:candidates], batches, loss)
    first = sorted(order[:candidates], key=lambda unit: exact[unit])
    return [(unit, exact[unit]) for unit in first] + [(unit, guessed[unit]) for unit in order[candidates:]]


def _estimated(program: Program, units: Sequence[Unit], batches: Iterable[Batch], loss: Loss) -> dict[Unit, float]:
    skips = Skips(dict.fromkeys(skip for unit in units for skip in unit.skips))
    table = estimate(program, skips, batches, loss, exact=0).set_index("id")["loss_change"]
    return {unit: sum(float(table[skip.id]) for skip in unit.skips) for unit in units}


def _exact(program: Program, units: Sequence[Unit], batches: Iterable[Batch], loss: Loss) -> dict[Unit, float]:
    skips = Skips(dict.fromkeys(skip for unit in units for skip in unit.skips))
    groups = [[skip.id for skip in unit.skips] for unit in units]
    table = lesion(program, skips, batches, loss, groups=groups)
    return dict(zip(units, (float(change) for change in table["loss_change"]), strict=True))
