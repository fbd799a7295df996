"""How much each branch adds to the signal that its shortcut carries."""

from collections import defaultdict
from collections.abc import Iterable

import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from ..execute import Execution
from ..program import Program
from ..skips import Skip, Skips, merge_at
from .batches import Batch, checked


def contribution(program: Program, skips: Skips, batches: Iterable[Batch]) -> pd.DataFrame:
    """Size and direction of each branch's output F beside the signal x that the shortcut brings.

    Per sample, over all its other dimensions, at the merge; then mean and standard deviation over samples:

    - ratio: ‖F‖ / ‖x‖, dimensionless; NaN for samples whose x is zero.
    - cosine: ⟨F, x⟩ / (‖F‖ ‖x‖) in [−1, 1]: 0 where F and x do not speak of the same thing, −1 where F takes
      away what x says.
    - growth: ‖merge‖ / ‖x‖.

    All three are invariant to the scale of the network's output. F is the sum of all the other operands of an
    addition, their concatenation for `concat`, where cosine and growth have no meaning and are NaN.
    Compare Veit et al. 2016, §4; Greff et al. 2017, §3.

    Returns:
        One row a skip: id, order, samples, ratio, ratio_std, cosine, cosine_std, growth, growth_std.
    """
    skips.check(program)
    operands = {skip.id: _operands(program, skip) for skip in skips}
    names = {name for shortcut, others in operands.values() for name in (shortcut, *others)}
    samples: dict[str, list[Tensor]] = defaultdict(list)
    for args, _, _ in checked(program, batches):
        with torch.no_grad():
            execution = Execution(program, args, record=names).advance()
            for skip in skips:
                shortcut, others = operands[skip.id]
                values = [execution.recorded[name] for name in others]
                samples[skip.id].append(_per_sample(skip, execution.recorded[shortcut], values))
    rows = [_row(program, skip, torch.cat(samples[skip.id])) for skip in skips]
    return pd.DataFrame(rows, columns=_COLUMNS)


_QUANTITIES = ("ratio", "cosine", "growth")
_COLUMNS = ["id", "order", "samples", *(f"{q}{end}" for q in _QUANTITIES for end in ("", "_std"))]


def _operands(program: Program, skip: Skip) -> tuple[str, list[str]]:
    """Names of the shortcut's operand and of all others (an operand may be joined more than once)."""
    names = [program.ops[o].name for o in merge_at(program, skip.merge).operands]
    names.remove(skip.operand)
    return skip.operand, names


def _per_sample(skip: Skip, shortcut: Tensor, others: list[Tensor]) -> Tensor:
    """Shape (samples, 3): ratio, cosine and growth of each sample."""
    x = shortcut.flatten(1).double()
    if skip.combine == "concat":
        branch = torch.cat([value.flatten(1) for value in others], dim=1).double()
        ratio = branch.norm(dim=1) / x.norm(dim=1)
        nothing = torch.full_like(ratio, torch.nan)
        return torch.stack([ratio, nothing, nothing], dim=1)
    branch = torch.stack([value.expand_as(shortcut).flatten(1).double() for value in others]).sum(0)
    size = x.norm(dim=1)
    ratio = branch.norm(dim=1) / size
    cosine = F.cosine_similarity(branch, x, dim=1, eps=0.0)
    quantities = torch.stack([ratio, cosine, (x + branch).norm(dim=1) / size], dim=1)
    return torch.where((size > 0)[:, None], quantities, torch.nan)


def _row(program: Program, skip: Skip, samples: Tensor) -> list:
    row: list = [skip.id, program.by_name[skip.merge].index, len(samples)]
    for column in samples.T:
        known = column[~column.isnan()]
        mean = float(known.mean()) if len(known) else float("nan")
        row += [mean, float(known.std()) if len(known) > 1 else float("nan")]
    return row
