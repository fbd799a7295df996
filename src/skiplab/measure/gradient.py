"""How large the gradient is, layer by layer."""

from collections import defaultdict
from collections.abc import Iterable

import pandas as pd
import torch
from torch import Tensor

from skiplab.execute import Execution
from skiplab.measure.batches import Batch, Loss, checked, finite
from skiplab.ops import WEIGHT_LAYERS
from skiplab.program import Program
from skiplab.skips import Skips


def gradient(program: Program, skips: Skips, batches: Iterable[Batch], loss: Loss) -> pd.DataFrame:
    """Norm of the loss's gradient for every weight layer and at the merge of every skip.

    - For a weight layer: L2 norm of ∂L/∂W over all the layer's parameters with two or more dimensions (kernels
      and matrices, not biases), with L the mean loss of a batch. Unit: that of the loss per unit of weight;
      scales with the loss.
    - For a skip: L2 norm over the batch of ∂L/∂(value of the merge), times the square root of the batch size,
      so that it is the root mean square over samples of each sample's own gradient and does not depend on the
      batch size.
    - relative: the norm divided by the largest of the same kind: dimensionless, invariant to the loss's scale.

    Mean and standard deviation over batches. Capture with `train=True` to measure at initialisation with batch
    statistics (He et al. 2016, §4; Glorot and Bengio 2010, §4). Layers that are frozen or run under
    `torch.no_grad` are measured like all others. The model's own `.grad` is not touched.

    Returns:
        One row a weight layer or skip: what ("weight" or "skip"), name (module path or skip id), order,
        gradient_norm, gradient_norm_std, relative.
    """
    skips.check(program).require_merges()
    layers = [op for op in program.ops if op.kind in WEIGHT_LAYERS and op.weights]
    merges = {skip.merge for skip in skips}
    norms: dict[tuple[str, str], list[float]] = defaultdict(list)
    for args, target, size in checked(program, batches):
        weights = _leaves(program)
        by_fqn = {program.parameters[n]: weight for n, weight in weights.items()}
        with torch.enable_grad():
            execution = Execution(program, args, record=merges, tensors=weights)
            value = loss(execution.finish(), target)
            finite(value, "the loss")
            kernels = {fqn: w for fqn, w in by_fqn.items() if w.ndim > 1}
            wanted = [*kernels.values(), *execution.recorded.values()]
            grads = torch.autograd.grad(value, wanted, allow_unused=True, materialize_grads=True)
        of_kernel = dict(zip(kernels, grads, strict=False))
        of_merge = dict(zip(execution.recorded, grads[len(kernels) :], strict=True))
        for op in layers:
            parts = [of_kernel[fqn] for fqn in op.weights if fqn in of_kernel]
            norms["weight", op.name].append(_norm(parts))
        for name, grad in of_merge.items():
            norms["skip", name].append(_norm([grad]) * size**0.5)
    return _table(program, skips, norms)


def _leaves(program: Program) -> dict[str, Tensor]:
    """Every real-valued parameter, ready to be differentiated."""
    real = [name for name in program.parameters if program.tensors[name].is_floating_point()]
    return {name: program.tensors[name].detach().requires_grad_() for name in real}


def _norm(parts: list[Tensor]) -> float:
    """In double precision: the squares of a vanishing gradient underflow in single."""
    return float(torch.stack([part.double().norm() for part in parts]).norm()) if parts else float("nan")


def _table(program: Program, skips: Skips, norms: dict[tuple[str, str], list[float]]) -> pd.DataFrame:
    rows = []
    for op in program.ops:
        if ("weight", op.name) in norms:
            rows.append(("weight", op.module or op.name, op.index, norms["weight", op.name]))
    for skip in skips:
        rows.append(("skip", skip.id, program.by_name[skip.merge].index, norms["skip", skip.merge]))
    table = pd.DataFrame(
        [(what, name, order, _mean(values), _std(values)) for what, name, order, values in rows],
        columns=["what", "name", "order", "gradient_norm", "gradient_norm_std"],
    )
    largest = table.groupby("what")["gradient_norm"].transform("max")
    return table.assign(relative=table["gradient_norm"] / largest)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _std(values: list[float]) -> float:
    return float(torch.tensor(values, dtype=torch.double).std()) if len(values) > 1 else float("nan")
