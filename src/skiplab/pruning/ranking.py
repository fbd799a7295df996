"""Ranking of blocks by what their removal costs."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from skiplab.analysis.skips import Skips
from skiplab.data.bound_batches import Batch
from skiplab.graph.program import Program
from skiplab.measure import estimate, lesion
from skiplab.measure.batches import Loss
from skiplab.measure.ggn_probe import Probe
from skiplab.pruning.block_influence import influence
from skiplab.pruning.options import Criterion
from skiplab.pruning.units import Unit


@dataclass(frozen=True)
class Lesions:
    """How lesions are measured.

    Attributes:
        loss: (output, target) -> mean over the batch.
        candidates: number of units whose lesion is measured exactly.
        probe: what the estimate needs where `loss` is not torch's own.
    """

    loss: Loss
    candidates: int
    probe: Probe | None = None


def ranked(
    program: Program, units: Sequence[Unit], batches: Iterable[Batch], by: Criterion, lesions: Lesions
) -> list[tuple[Unit, float]]:
    """Units with their scores, the least missed first.

    "lesion": the change in loss without the unit's branches. It is estimated for all units from two gradients, and
    exact for the candidates, those with the lowest estimates, which come first. "influence": see
    `skiplab.pruning.block_influence`. "first" and "last": by place in the network, with score 0.
    """
    if by == "lesion":
        return _by_lesion(program, units, batches, lesions)
    if by == "influence":
        scores = influence(program, units, batches)
        return sorted(zip(units, scores, strict=True), key=lambda pair: pair[1])
    return [(unit, 0.0) for unit in (reversed(units) if by == "last" else units)]


def shuffled(units: Sequence[Unit], seed: int) -> list[Unit]:
    """The units in random order."""
    order = torch.randperm(len(units), generator=torch.Generator().manual_seed(seed))
    return [units[place] for place in order.tolist()]


def _by_lesion(
    program: Program, units: Sequence[Unit], batches: Iterable[Batch], lesions: Lesions
) -> list[tuple[Unit, float]]:
    estimates = dict.fromkeys(units, 0.0)
    if lesions.candidates < len(units):
        estimates = _estimated(program, units, batches, lesions)
    order = sorted(units, key=lambda unit: estimates[unit])
    candidates, others = order[: lesions.candidates], order[lesions.candidates :]
    exact = _exact(program, candidates, batches, lesions.loss)
    first = sorted(candidates, key=lambda unit: exact[unit])
    return [(unit, exact[unit]) for unit in first] + [(unit, estimates[unit]) for unit in others]


def _estimated(
    program: Program, units: Sequence[Unit], batches: Iterable[Batch], lesions: Lesions
) -> dict[Unit, float]:
    table = estimate(program, _skips(units), batches, lesions.loss, lesions.probe, exact=0)
    changes = table.set_index("id")["loss_change"]
    return {unit: sum(float(changes[skip.id]) for skip in unit.skips) for unit in units}


def _exact(program: Program, units: Sequence[Unit], batches: Iterable[Batch], loss: Loss) -> dict[Unit, float]:
    groups = [[skip.id for skip in unit.skips] for unit in units]
    table = lesion(program, _skips(units), batches, loss, groups=groups)
    return dict(zip(units, (float(change) for change in table["loss_change"]), strict=True))


def _skips(units: Sequence[Unit]) -> Skips:
    return Skips(skip for unit in units for skip in unit.skips)
