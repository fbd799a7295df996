"""How large the gradient is, layer by layer, and which way it took."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from skiplab.analysis.edges import fork_edges
from skiplab.analysis.skips import Skips
from skiplab.data.bound_batches import Batch, BoundBatch, require_again
from skiplab.graph.interpreter import Edge
from skiplab.graph.ops import WEIGHT_LAYERS
from skiplab.graph.program import Program
from skiplab.measure.batches import Loss
from skiplab.measure.edge_gradients import alias_of
from skiplab.measure.network_variants import ORIGINAL, Variant, variants
from skiplab.measure.norms import norm
from skiplab.measure.observers import Gradients, Hooks, observe

Way = tuple[str, str]  # (skip's id, "shortcut" or "branch")
_WAYS = ("shortcut", "branch")


def gradient(
    program: Program,
    skips: Skips,
    batches: Iterable[Batch],
    loss: Loss,
    networks: Sequence[str] = ("original",),
    seed: int = 0,
) -> pd.DataFrame:
    """Norm of the loss's gradient for every weight layer and at every skip, by the way that it came.

    - For a weight layer: L2 norm of ∂L/∂W over all the layer's parameters with two or more dimensions (kernels
      and matrices, not biases), with L the mean loss of a batch. Unit: that of the loss per unit of weight;
      scales with the loss.
    - For a skip: L2 norm over the batch of ∂L/∂(value of the merge), times the square root of the batch size,
      so that it is the root mean square over samples of each sample's own gradient and does not depend on the
      batch size. `shortcut_norm` and `branch_norm` are the same of the two parts of ∂L/∂(value of the fork): what
      came back by the shortcut, and what came back by the branch.
    - relative: the norm divided by the largest of the same kind in the same network: dimensionless, invariant to
      the loss's scale.

    Mean and standard deviation over batches. Capture with `train=True` to measure at initialisation with batch
    statistics (He et al. 2016, §4; Glorot and Bengio 2010, §4). Layers that are frozen or run under
    `torch.no_grad` are measured like all others. The model's own `.grad` is not touched.

    Args:
        program, skips, batches: what is measured, and on what; batches that can be gone through again where there
            are several networks.
        loss: (output, target) -> mean over the batch.
        networks: of "original"; "plain", the same weights with every one of the skips' shortcuts removed;
            "reinitialized" and "reinitialized plain", both with fresh weights from `seed`.

    Returns:
        One row a weight layer or skip of each network: what ("weight" or "skip"), name (module path or skip id),
        network, order, gradient_norm, gradient_norm_std, relative, shortcut_norm, branch_norm (NaN for weights).
    """
    if len(networks) > 1:
        require_again(batches, f"the data is read for {len(networks)} networks")
    tables = []
    for variant in variants(program, skips, networks, seed):
        observer = Gradient(program, skips, variant)
        observe(program, batches, [observer], loss, variant)
        tables.append(observer.table())
    return pd.concat(tables, ignore_index=True)


class Gradient:
    """`gradient` of one network as one observer of a pass."""

    backward = True

    def __init__(self, program: Program, skips: Skips, variant: Variant = ORIGINAL) -> None:
        self.program = program
        self.variant = variant
        self.skips = skips.check(program).require_merges()
        self.layers = [op for op in program.ops if op.kind in WEIGHT_LAYERS and op.weights]
        self.ways = {
            (skip.id, way): edges for skip in skips for way, edges in zip(_WAYS, fork_edges(program, skip), strict=True)
        }
        self.norms: dict[tuple[str, str], list[float]] = defaultdict(list)

    def look(self, given: BoundBatch) -> Hooks:
        norms: dict[tuple[str, str], Tensor] = {}
        sums: dict[Way, Tensor] = {}  # of ways of which more gradients are to come
        left = {way: sum(self._readings(edge) for edge in edges) for way, edges in self.ways.items()}
        by_edge: dict[Edge, list[Way]] = defaultdict(list)
        for way, edges in self.ways.items():
            for edge in edges:
                by_edge[edge].append(way)

        def arrived(edge: Edge, grad: Tensor) -> None:
            for way in by_edge[edge]:
                total = sums.pop(way) + grad if way in sums else grad
                left[way] -= 1
                if left[way]:
                    sums[way] = total
                else:
                    norms[way] = _norm([total])

        def merged(name: str) -> Callable[[Any], None]:
            def see(value: Any) -> None:
                if value.requires_grad:
                    value.register_hook(lambda grad: norms.__setitem__(("skip", name), _norm([grad])))

            return see

        def keep(grads: Gradients) -> None:
            norms.update((way, _norm([total])) for way, total in sums.items())
            for op in self.layers:
                norms["weight", op.name] = _norm([grads[w] for w in op.weights if w in grads and grads[w].ndim > 1])
            self._keep(norms, given.size)

        values = {skip.merge: merged(skip.merge) for skip in self.skips}
        return Hooks(keep, {edge: _tap(edge, arrived) for edge in by_edge}, values)

    def _readings(self, edge: Edge) -> int:
        """How often a reader takes the value: x · x does twice, and gives two gradients."""
        reader, operand = (self.program.by_name[name] for name in edge)
        return reader.inputs.count(operand.index)

    def _keep(self, norms: dict[tuple[str, str], Tensor], size: int) -> None:
        zero = torch.zeros((), dtype=torch.double)
        for op in self.layers:
            self.norms["weight", op.name].append(float(norms["weight", op.name]))
        for name in {skip.merge for skip in self.skips}:
            self.norms["skip", name].append(float(norms.get(("skip", name), zero)) * size**0.5)
        for way in self.ways:  # a way on which nothing came back has no norm
            self.norms[way].append(float(norms.get(way, zero)) * size**0.5)

    def table(self) -> pd.DataFrame:
        missing = float("nan")
        rows = []
        for op in self.layers:
            rows.append(("weight", op.module or op.name, op.index, self.norms["weight", op.name], missing, missing))
        for skip in self.skips:
            ways = (_mean(self.norms[skip.id, way]) for way in _WAYS)
            order = self.program.by_name[skip.merge].index
            rows.append(("skip", skip.id, order, self.norms["skip", skip.merge], *ways))
        table = pd.DataFrame(
            [
                (what, name, self.variant.name, order, _mean(norms), _std(norms), *ways)
                for what, name, order, norms, *ways in rows
            ],
            columns=["what", "name", "network", "order", "gradient_norm", "gradient_norm_std", *_WAY_COLUMNS],
        )
        largest = table.groupby("what")["gradient_norm"].transform("max")
        table.insert(6, "relative", table["gradient_norm"] / largest)
        return table


_WAY_COLUMNS = [f"{way}_norm" for way in _WAYS]


def _tap(edge: Edge, arrived: Callable[[Edge, Tensor], None]) -> Callable[[Tensor], Tensor]:
    """A patch that changes nothing, and hands on the gradient that comes back on this edge alone."""

    def patch(value: Tensor) -> Tensor:
        alias = alias_of(value)
        alias.register_hook(lambda grad: arrived(edge, grad))
        return alias

    return patch


def _norm(parts: list[Tensor]) -> Tensor:
    return torch.stack([norm(part) for part in parts]).norm() if parts else torch.full((), torch.nan)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else float("nan")


def _std(values: list[float]) -> float:
    return float(torch.tensor(values, dtype=torch.double).std()) if len(values) > 1 else float("nan")
