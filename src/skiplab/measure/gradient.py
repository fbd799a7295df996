"""The size of the gradient at each layer, and at each skip the parts that come by shortcut and by branch."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from skiplab.analysis.edges import fork_edges
from skiplab.analysis.skips import Skips
from skiplab.data.bound_batches import Batch, BoundBatch, require_reiterable
from skiplab.graph.interpreter import Edge
from skiplab.graph.ops import WEIGHT_LAYERS
from skiplab.graph.program import Program
from skiplab.measure.batches import Loss
from skiplab.measure.edge_gradients import alias_of
from skiplab.measure.losses import named_loss
from skiplab.measure.network_variants import ORIGINAL, Network, Variant, check_networks, variants
from skiplab.measure.norms import norm
from skiplab.measure.observers import Gradients, Hooks, observe
from skiplab.measure.protocol import Measure
from skiplab.measure.table import MeasureTable
from skiplab.stats.columns import Column
from skiplab.stats.wording import finite_in, short, spread, times

Side = tuple[str, str]  # (id of the skip, "shortcut" or "branch")
_SIDES = ("shortcut", "branch")
_SIDE_COLUMNS = [f"{side}_norm" for side in _SIDES]


def gradient(
    program: Program,
    skips: Skips,
    batches: Iterable[Batch],
    loss: Loss | str,
    networks: Sequence[Network] = ("original",),
    seed: int = 0,
) -> MeasureTable:
    """Norm of the loss's gradient for each weight layer, and at each skip also by shortcut and by branch.

    - For a weight layer: L2 norm of ∂L/∂W over all the layer's parameters with two or more dimensions (kernels and
      matrices, no biases), with L the mean loss of a batch. Unit: that of the loss per unit of weight; scales with
      the loss.
    - For a skip: L2 norm over the batch of ∂L/∂(value of the merge), times the square root of the batch size. This is
      the root mean square over samples of each sample's own gradient, independent of the batch size. `shortcut_norm`
      and `branch_norm` are the same for the two parts of ∂L/∂(value of the fork) that come by the shortcut and by the
      branch.
    - relative: the norm divided by the largest of the same kind in the same network: dimensionless, invariant to
      the loss's scale.

    Mean and standard deviation over batches. Capture with `train=True` to measure at initialization with batch
    statistics (He et al. 2016, §4; Glorot and Bengio 2010, §4). Layers that are frozen or run under
    `torch.no_grad` are measured like all others. The model's own `.grad` is not touched.

    Args:
        program, skips, batches: the network and its data; batches that can be read again when there are several
            networks.
        loss: (output, target) -> mean over the batch, or the name of one; see `skiplab.measure.losses`.
        networks: the networks to measure, of "original"; "plain", the same weights without the shortcuts of `skips`;
            "reinitialized" and "reinitialized plain", both with fresh weights from `seed`.

    Returns:
        One row a weight layer or skip of each network: what ("weight" or "skip"), name (module path or skip id),
        network, order, gradient_norm, gradient_norm_std, relative, shortcut_norm, branch_norm (NaN for weights).
    """
    function = named_loss(loss)
    if len(networks) > 1:
        require_reiterable(batches, f"the data is read for {len(networks)} networks")
    tables = []
    for variant in variants(program, skips, networks, seed):
        observer = Gradient(program, skips, variant)
        observe(program, batches, [observer], function, variant)
        tables.append(observer.table())
    return MeasureTable.of(__name__, pd.concat(tables, ignore_index=True))


class Gradient:
    """`gradient` of one network as an observer of a pass."""

    backward = True

    def __init__(self, program: Program, skips: Skips, variant: Variant = ORIGINAL) -> None:
        self.program = program
        self.variant = variant
        self.skips = skips.check(program).require_merges()
        self.layers = [op for op in program.ops if op.kind in WEIGHT_LAYERS and op.weights]
        self.sides = {
            (skip.id, side): edges
            for skip in skips
            for side, edges in zip(_SIDES, fork_edges(program, skip), strict=True)
        }
        self.norms: dict[tuple[str, str], list[float]] = defaultdict(list)

    def make_hooks(self, given: BoundBatch) -> Hooks:
        """Hooks on the gradients at every merge and on every edge out of a fork."""
        batch = _BatchGradients(self.program, self.sides)

        def commit(grads: Gradients) -> None:
            for op in self.layers:
                weights = [grads[w] for w in op.weights if w in grads and grads[w].ndim > 1]
                self.norms["weight", op.name].append(float(_norm(weights)))
            scale = given.size**0.5
            for merge in {skip.merge for skip in self.skips}:
                self.norms["skip", merge].append(batch.norm_at_merge(merge) * scale)
            for side in self.sides:
                self.norms[side].append(batch.norm_of_side(side) * scale)

        merges = {skip.merge: batch.at_merge(skip.merge) for skip in self.skips}
        return Hooks(commit, {edge: batch.at_fork(edge) for edge in batch.by_edge}, merges)

    def table(self) -> pd.DataFrame:
        """See `gradient`."""
        missing = float("nan")
        rows = []
        for op in self.layers:
            rows.append(("weight", op.module or op.name, op.index, self.norms["weight", op.name], missing, missing))
        for skip in self.skips:
            sides = (_mean(self.norms[skip.id, side]) for side in _SIDES)
            order = self.program.by_name[skip.merge].index
            rows.append(("skip", skip.id, order, self.norms["skip", skip.merge], *sides))
        table = pd.DataFrame(
            [
                (what, name, self.variant.name, order, _mean(norms), _std(norms), *sides)
                for what, name, order, norms, *sides in rows
            ],
            columns=["what", "name", "network", "order", "gradient_norm", "gradient_norm_std", *_SIDE_COLUMNS],
        )
        largest = table.groupby("what")["gradient_norm"].transform("max")
        table.insert(6, "relative", table["gradient_norm"] / largest)
        return table


class _BatchGradients:
    """The gradients that come back during one batch.

    `at_merge` and `at_fork` make hooks that change no value. A shortcut or branch may leave its fork by several edges;
    its gradient is their sum, which is kept until all have arrived, and then only its norm.

    Attributes:
        by_edge: the shortcuts and branches that an edge belongs to.
    """

    def __init__(self, program: Program, sides: dict[Side, tuple[Edge, ...]]) -> None:
        self._norms: dict[Side | str, Tensor] = {}
        self._sums: dict[Side, Tensor] = {}  # of shortcuts and branches with further gradients to come
        self._left = {side: sum(_readings(program, edge) for edge in edges) for side, edges in sides.items()}
        self.by_edge: dict[Edge, list[Side]] = defaultdict(list)
        for side, edges in sides.items():
            for edge in edges:
                self.by_edge[edge].append(side)

    def at_merge(self, merge: str) -> Callable[[Any], None]:
        """A function that is called with the merge's value."""

        def see(value: Any) -> None:
            if value.requires_grad:
                value.register_hook(lambda grad: self._norms.__setitem__(merge, _norm([grad])))

        return see

    def at_fork(self, edge: Edge) -> Callable[[Tensor], Tensor]:
        """A patch that sees the gradient that comes back on this edge alone."""

        def patch(value: Tensor) -> Tensor:
            alias = alias_of(value)
            alias.register_hook(lambda grad: self._arrive(edge, grad))
            return alias

        return patch

    def _arrive(self, edge: Edge, grad: Tensor) -> None:
        for side in self.by_edge[edge]:
            total = self._sums.pop(side) + grad if side in self._sums else grad
            self._left[side] -= 1
            if self._left[side]:
                self._sums[side] = total
            else:
                self._norms[side] = _norm([total])

    def norm_at_merge(self, merge: str) -> float:
        """The norm after the pass; 0 without a gradient."""
        return float(self._norms.get(merge, 0.0))

    def norm_of_side(self, side: Side) -> float:
        """The norm after the pass, also if some edges had no gradient; 0 without any."""
        return float(_norm([self._sums[side]]) if side in self._sums else self._norms.get(side, 0.0))


def _readings(program: Program, edge: Edge) -> int:
    """How often a reader takes the value: x · x takes it twice, and gives two gradients."""
    reader, operand = (program.by_name[name] for name in edge)
    return reader.inputs.count(operand.index)


def _norm(parts: list[Tensor]) -> Tensor:
    return torch.stack([norm(part) for part in parts]).norm() if parts else torch.full((), torch.nan)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else float("nan")


def _std(values: list[float]) -> float:
    return float(torch.tensor(values, dtype=torch.double).std()) if len(values) > 1 else float("nan")


def sentences(table: pd.DataFrame) -> Iterator[str]:
    """The first weight layer compared with the last, and shortcuts compared with branches."""
    own = table[table["network"] == ORIGINAL.name]
    weights = finite_in(own[own["what"] == "weight"], "gradient_norm").sort_values("order")
    if len(weights) > 1 and weights["gradient_norm"].iloc[-1] > 0:
        first, last = weights.iloc[0], weights.iloc[-1]
        alone = " (one batch, so without an interval)" if first.isna()["gradient_norm_std"] else ""
        yield (
            f"The gradient of the first weight layer `{first['name']}` is "
            f"{times(first['gradient_norm'] / last['gradient_norm'])} that of the last, `{last['name']}`{alone}; "
            f"over {len(weights)} layers the largest is {short(spread(weights['gradient_norm']))} times the smallest."
        )
    skips = finite_in(finite_in(own[own["what"] == "skip"], "shortcut_norm"), "branch_norm")
    if len(skips):
        more = int((skips["shortcut_norm"] > skips["branch_norm"]).sum())
        ratio = (skips["shortcut_norm"] / skips["branch_norm"].where(skips["branch_norm"] > 0)).median()
        factor = "" if math.isnan(ratio) else f", in the median {times(ratio)} what comes by the branch"
        yield f"At {more} of {len(skips)} forks more of the gradient comes back by the shortcut{factor}."


def _rows_of_skips(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of skips, if there are any: the rows of weight layers are too many for a terminal."""
    skips = table[table["what"] == "skip"]
    return skips if len(skips) else table


MEASURE = Measure(
    function=gradient,
    run=lambda inputs: gradient(inputs.program, inputs.skips, inputs.batches, inputs.loss, **inputs.options),
    sentences=sentences,
    rows=_rows_of_skips,
    columns=(
        Column("", "what", "text", doc='"weight" for a weight layer, "skip" for a skip'),
        Column("skip", "name", doc="module path of the layer, or id of the skip"),
        Column("network", "network", "text", doc="the network that the gradient is of"),
        Column("", "order", doc="index of the layer or merge in the graph, to sort by"),
        Column(
            "‖∂loss‖ at merge",
            "gradient_norm",
            "std",
            doc="norm of the gradient of a layer's weights, or of a merge's value, root mean square over samples",
            unit="loss per unit of weight or value",
        ),
        Column("", "relative", doc="gradient_norm divided by the largest of its kind in the network"),
        Column("by shortcut", "shortcut_norm", doc="part that the shortcut brings to the fork", unit="loss per unit"),
        Column("by branch", "branch_norm", doc="part that the branch brings to the fork", unit="loss per unit"),
    ),
    title="Gradient",
    reading="Norm of the loss's gradient by weight layer, and at each skip: of the merge's value, and the parts that "
    "come back to the fork by shortcut and by branch. The axes are logarithmic; a norm of zero is not drawn.",
    chart="gradient",
    options=("networks",),
    check=check_networks,
    observer=Gradient,
    default=True,
    needs_targets=True,
    needs_skips=False,
)
