"""How much each branch adds to the signal that its shortcut carries."""

from collections import defaultdict
from collections.abc import Iterable

import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from skiplab.execute import Edge, Execution
from skiplab.measure.batches import Batch, checked
from skiplab.merges import merge_at
from skiplab.program import Program
from skiplab.skips import Skip, Skips


def contribution(program: Program, skips: Skips, batches: Iterable[Batch]) -> pd.DataFrame:
    """Size and direction of each branch's output F beside the signal x that the shortcut brings.

    Per sample, over all its other dimensions, at the merge; then mean and standard deviation over samples:

    - ratio: ‖F‖ / ‖x‖, dimensionless; NaN for samples whose x is zero.
    - cosine: ⟨F, x⟩ / (‖F‖ ‖x‖) in [−1, 1]: 0 where F and x do not speak of the same thing, −1 where F takes
      away what x says.
    - growth: ‖merge‖ / ‖x‖.

    All three are invariant to the scale of the network's output. F is what the merge would be without the
    shortcut: the signed sum of all the other operands of an addition; for `concat` their concatenation, where
    cosine and growth have no meaning and are NaN. Likewise x is what it would be without all the others.
    Compare Veit et al. 2016, §4; Greff et al. 2017, §3.

    Returns:
        One row a skip: id, order, samples, ratio, ratio_std, cosine, cosine_std, growth, growth_std.
    """
    skips.check(program).require_merges()
    edges = {skip.id: _edges(program, skip) for skip in skips}
    starts = {skip.id: min(program.by_name[r].index for part in edges[skip.id] for r, _ in part) for skip in skips}
    samples: dict[str, list[Tensor]] = defaultdict(list)
    for args, _, _ in checked(program, batches):
        with torch.no_grad():
            execution = Execution(program, args)
            for skip in sorted(skips, key=lambda skip: starts[skip.id]):
                execution.advance(until=program.ops[starts[skip.id]].name)
                without_shortcut, without_others = (
                    execution.fork(dict.fromkeys(part, torch.zeros_like)).value(skip.merge) for part in edges[skip.id]
                )
                samples[skip.id].append(_per_sample(skip, without_others, without_shortcut))
    rows = [_row(program, skip, torch.cat(samples[skip.id])) for skip in skips]
    return pd.DataFrame(rows, columns=_COLUMNS)


_QUANTITIES = ("ratio", "cosine", "growth")
_COLUMNS = ["id", "order", "samples", *(f"{q}{end}" for q in _QUANTITIES for end in ("", "_std"))]


def _edges(program: Program, skip: Skip) -> tuple[list[Edge], list[Edge]]:
    """The edges into the merge on which the shortcut's value arrives, and all others."""
    merge = merge_at(program, skip.merge)
    edges = [
        (program.ops[reader].name, program.ops[operand].name)
        for operand, reader in zip(merge.operands, merge.readers, strict=True)
    ]
    return [e for e in edges if e[1] == skip.operand], [e for e in edges if e[1] != skip.operand]


def _per_sample(skip: Skip, shortcut: Tensor, branch: Tensor) -> Tensor:
    """Shape (samples, 3): ratio, cosine and growth of each sample."""
    x, f = (value.reshape(len(value), -1).double() for value in (shortcut, branch))
    size = x.norm(dim=1)
    ratio, growth = f.norm(dim=1) / size, (x + f).norm(dim=1) / size
    cosine = F.cosine_similarity(f, x, dim=1, eps=0.0)
    if skip.combine == "concat":
        cosine = growth = torch.full_like(ratio, torch.nan)
    return torch.where((size > 0)[:, None], torch.stack([ratio, cosine, growth], dim=1), torch.nan)


def _row(program: Program, skip: Skip, samples: Tensor) -> list:
    row: list = [skip.id, program.by_name[skip.merge].index, len(samples)]
    for column in samples.T:
        known = column[~column.isnan()]
        mean = float(known.mean()) if len(known) else float("nan")
        row += [mean, float(known.std()) if len(known) > 1 else float("nan")]
    return row
