"""The graph of a model from one real run, and from a second one with another batch size."""

import contextlib

from torch import nn

from skiplab.errors import CaptureError
from skiplab.graph.free_batch import BatchFit, FixedBatchError
from skiplab.graph.graph_parts import GraphParts
from skiplab.graph.inputs import Inputs, batch_size, with_batch_size
from skiplab.graph.recorded_graph import graph_parts
from skiplab.graph.recorder import Recording, record_run
from skiplab.graph.rng import other_random_numbers, reseed
from skiplab.graph.unchanged import Snapshot

_OTHER_SEEDS = 3  # runs with which another network would be noticed


def recorded_parts(model: nn.Module, example: Inputs, snapshot: Snapshot) -> GraphParts:
    """The graph with a free batch size, or if the model does not allow that with the example's; raises what it raises.

    A run in which Python read a value of the data holds for these data alone, and its batch size is fixed.
    """
    size = batch_size(example)
    if not size:
        return graph_parts(model, example, _run(model, example, snapshot), None)
    # with one sample, sizes of 1 that broadcast look like the batch's
    wide = max(size, 2)
    inputs = with_batch_size(example, size, wide)
    first = _run_or_none(model, inputs, snapshot) if wide > size else _run(model, inputs, snapshot)
    fit: BatchFit | None = None
    if first is not None:
        with contextlib.suppress(FixedBatchError):
            fit = _fitted(model, inputs, first, snapshot)
    if first is None or (fit is None and wide > size):
        inputs, first = example, _run(model, example, snapshot)
    _require_one_network(model, inputs, first, snapshot)
    return graph_parts(model, inputs, first, fit)


def _require_one_network(model: nn.Module, inputs: Inputs, run: Recording, snapshot: Snapshot) -> None:
    """CaptureError if the random numbers of Python or numpy decide what runs. Those of torch are operators."""
    for seed in range(1, 1 + _OTHER_SEEDS) if run.draws else ():
        with other_random_numbers(seed):
            other = _run(model, inputs, snapshot)
        try:
            BatchFit(1, run.tape, other.tape).check()
        except FixedBatchError:
            raise CaptureError(
                f"`forward` draws from {' and '.join(run.draws)}, so that each run is another network: switch that "
                "off, such as with layerdrop=0, or draw with torch and multiply"
            ) from None


def _run_or_none(model: nn.Module, example: Inputs, snapshot: Snapshot) -> Recording | None:
    """A run on more samples than the user's; None where the model takes no more."""
    try:
        return _run(model, example, snapshot)
    except Exception:
        return None


def _fitted(model: nn.Module, inputs: Inputs, first: Recording, snapshot: Snapshot) -> BatchFit:
    """The numbers of a run that follow the batch size; FixedBatchError if it cannot vary."""
    if first.tape.reads:
        raise FixedBatchError("the run depends on values that Python reads")

    size = batch_size(inputs)
    assert size is not None

    def run_with(new: int) -> Recording:
        try:
            return _run(model, with_batch_size(inputs, size, new), snapshot)
        except Exception as error:
            raise FixedBatchError(f"the model fails on {new} samples: {error}") from error

    fit = BatchFit(size, first.tape, run_with(size + 1).tape)
    fit.check()
    if fit.needs_third_run():
        fit.check_third(run_with(size + 3).tape)
    return fit


def _run(model: nn.Module, example: Inputs, snapshot: Snapshot) -> Recording:
    reseed()
    try:
        return record_run(model, *example)
    finally:
        snapshot.restore()
