"""What the trained network loses when a branch or a shortcut is deleted, without retraining."""

from collections.abc import Callable, Iterable
from typing import Any, Literal

import pandas as pd
import torch

from skiplab.errors import UsageError
from skiplab.execute import Edge, Execution, Patch
from skiplab.measure.batches import Batch, Loss, checked, finite
from skiplab.measure.edges import branch_edges, shortcut_edges, start
from skiplab.program import Program
from skiplab.skips import Skips

Part = Literal["branch", "shortcut"]


def lesion(
    program: Program,
    skips: Skips,
    batches: Iterable[Batch],
    loss: Loss,
    metric: Loss | None = None,
    part: Part = "branch",
) -> pd.DataFrame:
    """Change in loss when one skip connection at a time loses its branch (or its shortcut).

    Exact: each lesioned network is run on all the data. What precedes a lesion is computed once and shared,
    which halves the work and is bit-identical to running each network from the start. Veit et al. 2016, §4.1.

    Args:
        program: the captured, trained network (not the training graph: batch norm must use its statistics).
        skips: those to delete, one at a time.
        batches: pairs (inputs, target).
        loss: (output, target) -> mean over the batch.
        metric: a second quantity of the same form, such as the error rate.
        part: what is deleted: its values are replaced by zeros as they enter the merge.

    Returns:
        One row a skip: id, order, samples, loss (of the lesioned network), loss_change (minus that of the
        whole network, in the loss's unit), and metric, metric_change when a metric is given. Means over
        samples. A lesioned network may overflow: its loss is then inf or NaN, and stays so.
    """
    skips.check(program).require_merges()
    if program.training:
        raise UsageError(
            f"lesions need batch norm to use its statistics, and {program.name} was captured as training graph: "
            "capture it without train=True"
        )
    edges_of = branch_edges if part == "branch" else shortcut_edges
    edges = {skip.id: edges_of(program, skip) for skip in skips}
    order = sorted(skips, key=lambda skip: start(program, edges[skip.id]))
    functions = [loss] if metric is None else [loss, metric]
    whole, sums, samples = [0.0] * len(functions), {s.id: [0.0] * len(functions) for s in skips}, 0
    for given in checked(program, batches):
        target, size = given.target, given.size
        samples += size
        with torch.no_grad():
            clean = Execution(program, given.args, given.kwargs)
            for skip in order:
                clean.advance(until=program.ops[start(program, edges[skip.id])].name)
                patches: dict[Edge, Patch] = dict.fromkeys(edges[skip.id], torch.zeros_like)
                _add(sums[skip.id], functions, clean.fork(patches).finish(), target, size)
            output = clean.finish()
            for function in functions:
                finite(program, given, function(output, target), "the loss of the whole network")
            _add(whole, functions, output, target, size)
    return _table(program, skips, sums, whole, samples)


def _add(sums: list[float], functions: list[Callable], output: Any, target: Any, size: int) -> None:
    for i, function in enumerate(functions):
        sums[i] += float(function(output, target)) * size


def _table(
    program: Program, skips: Skips, sums: dict[str, list[float]], whole: list[float], samples: int
) -> pd.DataFrame:
    names = ["loss", "metric"][: len(whole)]
    rows = []
    for skip in skips:
        row: list = [skip.id, program.by_name[skip.merge].index, samples]
        for value, clean in zip(sums[skip.id], whole, strict=True):
            row += [value / samples, (value - clean) / samples]
        rows.append(row)
    columns = ["id", "order", "samples", *(f"{name}{end}" for name in names for end in ("", "_change"))]
    return pd.DataFrame(rows, columns=columns)
