"""Contribution, clipping and gradient of the same batches in one forward and backward pass."""

from collections.abc import Iterable, Sequence

import pandas as pd

from skiplab.analysis.skips import Skips
from skiplab.data.bound_batches import Batch
from skiplab.errors import UsageError
from skiplab.graph.program import Program
from skiplab.measure.batches import Loss
from skiplab.measure.clipping import Clipping
from skiplab.measure.contribution import Contribution
from skiplab.measure.gradient import Gradient
from skiplab.measure.observers import Observer, observe

OBSERVERS: dict[str, type] = {"contribution": Contribution, "clipping": Clipping, "gradient": Gradient}


def together(
    program: Program,
    skips: Skips,
    batches: Iterable[Batch],
    loss: Loss | None = None,
    what: Sequence[str] = tuple(OBSERVERS),
) -> dict[str, pd.DataFrame]:
    """The tables that the functions of these names give, by name, for the price of one pass over the data.

    `loss` is needed for the gradient alone; without it the pass is forward only.
    """
    for name in what:
        if name not in OBSERVERS:
            raise UsageError(f"{name!r} cannot be measured in one pass with others: choose of {', '.join(OBSERVERS)}")
    if "gradient" in what and loss is None:
        raise UsageError('the gradient is that of a loss: give one, or leave "gradient" out of `what`')
    observers: dict[str, Observer] = {name: OBSERVERS[name](program, skips) for name in what}
    observe(program, batches, list(observers.values()), loss)
    return {name: observer.table() for name, observer in observers.items()}
