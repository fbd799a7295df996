"""Batch norm statistics of an edited network, re-estimated on data."""

from collections.abc import Iterable

from skiplab.data.bound_batches import Batch
from skiplab.edit.graph_editor import GraphEditor
from skiplab.errors import UsageError
from skiplab.graph.program import Program
from skiplab.measure.lesions.batchnorm import find_batch_norms, reestimate_batch_norms
from skiplab.measure.lesions.resumable_pass import Passes


def recalibrate(program: Program, batches: Iterable[Batch]) -> Program:
    """Re-estimates batch norm statistics on data. Use it after an edit and before measuring.

    Each statistic is the plain mean over batches (and over calls of a shared batch norm) of the batch mean or the
    unbiased batch variance, in a network that normalizes by the batch. `torch.optim.swa_utils.update_bn` gives the same
    for a network that does nothing else in training mode; dropout stays off here. All other tensors, counters of
    batches included, stay unchanged. Izmailov et al. 2018, arXiv:1803.05407, §3.2.

    Args:
        program: an inference graph.
        batches: pairs (inputs, target), read once; targets are not used.

    Raises:
        UsageError: for a network without batch norm statistics; for a training graph.
        DataError: without batches, and for batches that the network cannot take.
    """
    program.require_inference("which does not read the statistics of its batch norms")
    if not find_batch_norms(program):
        raise UsageError(f"{program.name} has no batch norm statistics to re-estimate: use it unchanged")
    _, statistics = reestimate_batch_norms(Passes(program, batches, {"statistics": 1}, {}, {}), "statistics", [])
    editor = GraphEditor(program)
    for placeholder, new in {operand: patch for (_, operand), patch in statistics.items()}.items():
        editor.replace_tensor(placeholder, new(program.tensors[placeholder]))
    return editor.finish()
