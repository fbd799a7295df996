"""The graph of a model from one real run, and from a second one with another batch size."""

from torch import nn

from skiplab.graph.free_batch import BatchFit, FixedBatchError
from skiplab.graph.graph_parts import GraphParts
from skiplab.graph.inputs import Inputs, batch_size, with_batch_size
from skiplab.graph.recorded_graph import graph_parts
from skiplab.graph.recorder import Recording, record_run
from skiplab.graph.rng import reseed


def recorded_parts(model: nn.Module, example: Inputs) -> GraphParts:
    """The graph with a free batch size, or if the model does not allow that with the example's; raises what it raises.

    A run in which Python read a value of the data holds for these data alone, and its batch size is fixed.
    """
    size = batch_size(example)
    if size is None or size == 0:
        return _fixed(model, example)
    # with one sample, sizes of 1 that broadcast look like the batch's
    wide = max(size, 2)
    inputs = with_batch_size(example, size, wide)
    try:
        first = _run(model, inputs)
        if first.tape.reads or first.draws:
            raise FixedBatchError("the run depends on values")
        fit = BatchFit(wide, first.tape, _run(model, with_batch_size(inputs, wide, wide + 1)).tape)
        fit.check()
        if fit.needs_third_run():
            fit.check_third(_run(model, with_batch_size(inputs, wide, wide + 3)).tape)
    except Exception:  # the model takes one batch size, or its operators depend on it
        return _fixed(model, example)
    return graph_parts(model, inputs, first, fit)


def _fixed(model: nn.Module, example: Inputs) -> GraphParts:
    return graph_parts(model, example, _run(model, example), None)


def _run(model: nn.Module, example: Inputs) -> Recording:
    reseed()
    return record_run(model, *example)
