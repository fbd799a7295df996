"""Several measures of the same batches in one forward and backward pass."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from skiplab.analysis.skips import Skips
from skiplab.data.bound_batches import Batch
from skiplab.errors import UsageError
from skiplab.graph.program import Program
from skiplab.measure.batches import Loss
from skiplab.measure.losses import named_loss
from skiplab.measure.observers import Observer, observe
from skiplab.measure.protocol import MeasureInputs
from skiplab.measure.registry import load, load_all
from skiplab.measure.table import MeasureTable


def together(
    program: Program,
    skips: Skips,
    batches: Iterable[Batch],
    loss: Loss | str | None = None,
    what: Sequence[str] | None = None,
) -> dict[str, MeasureTable]:
    """The tables of several measures by name, for one pass over the data.

    Args:
        program, skips, batches, loss: as the measures take them; without a gradient among them no loss is needed, and
            the pass is forward only.
        what: names of measures; by default all that can share a pass: contribution, clipping and gradient.
    """
    makers = {name: maker for name, measure in load_all().items() if (maker := measure.observer) is not None}
    observers: dict[str, Observer] = {}
    for name in makers if what is None else what:
        if name not in makers:
            raise UsageError(f"{name!r} cannot share a pass with other measures: choose of {', '.join(makers)}")
        observers[name] = makers[name](program, skips)
    if loss is None and (backward := [name for name, observer in observers.items() if observer.backward]):
        raise UsageError(f"{', '.join(backward)}: give a loss to differentiate, or leave it out of `what`")
    observe(program, batches, list(observers.values()), None if loss is None else named_loss(loss))
    return {name: load(name).as_result(observer.table()) for name, observer in observers.items()}


def group_by_pass(names: Sequence[str], options: Mapping[str, Any]) -> list[list[str]]:
    """The measures that run at once: those that can share a pass and have no option set, then each of the others."""
    shared = [name for name in names if load(name).observer is not None and not load(name).own_options(options)]
    if len(shared) < 2:
        shared = []
    return [*([shared] if shared else []), *([name] for name in names if name not in shared)]


def run_group(names: Sequence[str], inputs: MeasureInputs) -> dict[str, MeasureTable]:
    """The tables of one group of `group_by_pass`."""
    if len(names) == 1:
        return {names[0]: load(names[0])(inputs)}
    return together(inputs.program, inputs.skips, inputs.batches, inputs.loss, names)
