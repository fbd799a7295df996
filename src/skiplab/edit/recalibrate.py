"""Batch norm statistics estimated anew, which a changed network has other ones of than the one it was made of."""

from collections.abc import Iterable

from skiplab.data.bound_batches import Batch
from skiplab.edit.graph_editor import Draft
from skiplab.errors import UsageError
from skiplab.graph.program import Program
from skiplab.measure.lesions.batchnorm import normalised, reestimated
from skiplab.measure.lesions.resumable_pass import Passes


def recalibrate(program: Program, batches: Iterable[Batch]) -> Program:
    """The same network with batch norm statistics of these data; use it after an edit, before measuring.

    Each statistic is the plain mean, over batches (and over calls of a shared batch norm), of the batch's mean or
    unbiased variance, in a network that normalises by the batch: what `torch.optim.swa_utils.update_bn` gives of a
    network that does nothing else in training mode; dropout stays off here. Izmailov et al. 2018, arXiv:1803.05407,
    §3.2. All other tensors, counters of batches included, are the program's own.

    Args:
        program: an inference graph.
        batches: pairs (inputs, target), read once; targets are not looked at.

    Raises:
        UsageError: where there is no batch norm with statistics; for a training graph.
        DataError: for no batches, and for those that the network cannot take.
    """
    program.require_inference("which does not read the statistics of its batch norms")
    if not normalised(program):
        raise UsageError(f"{program.name} has no batch norm with statistics to estimate anew: use it as it is")
    _, statistics = reestimated(Passes(program, batches, {"statistics": 1}, {}, {}), "statistics", [])
    draft = Draft(program)
    for placeholder, new in {operand: patch for (_, operand), patch in statistics.items()}.items():
        draft.replace_tensor(placeholder, new(program.tensors[placeholder]))
    return draft.done()
