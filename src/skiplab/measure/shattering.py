"""How fast the gradient of the input turns into noise when the input moves."""

from collections.abc import Iterable, Iterator, Sequence

import pandas as pd
import torch
from torch import Tensor

from skiplab.analysis.skips import Skips
from skiplab.data.bound_batches import Batch, BoundBatch, require_reiterable
from skiplab.errors import UsageError
from skiplab.graph.interpreter import Execution, detached_tensors
from skiplab.graph.program import Op, Program
from skiplab.graph.torch_compat import pytree
from skiplab.measure.batches import finite, map_batches, own_randomness
from skiplab.measure.input_leaves import input_leaves, replace_values
from skiplab.measure.merge_operands import by_sample
from skiplab.measure.moments import Moments
from skiplab.measure.network_variants import Network, Variant, check_networks, variants
from skiplab.measure.protocol import SAMPLES, Measure
from skiplab.measure.table import MeasureTable
from skiplab.stats.columns import Column
from skiplab.stats.wording import finite_in, interval_of, within

DISTANCES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)


def shattering(
    program: Program,
    skips: Skips,
    batches: Iterable[Batch],
    networks: Sequence[Network] = ("original", "plain"),
    distances: Sequence[float] = DISTANCES,
    seed: int = 0,
) -> MeasureTable:
    """Correlation of the input's gradient with the gradient at a nearby input, by their distance.

    With f a fixed random projection of the network's output (normal, from `seed`), x a sample and δ a random
    direction: the cosine of ∂f/∂x and ∂f/∂x at x + distance · ‖x‖ · δ / ‖δ‖, over all entries of the sample. Near 1
    the gradient is smooth; near 0 it is white noise. Dimensionless, invariant to the scale of output and input; mean
    and standard deviation over samples. After Balduzzi et al. 2017, "The Shattered Gradients Problem",
    arXiv:1702.08591, §2, who measure along a line and at initialization: capture with `train=True`, or measure
    "reinitialized" networks. For tokens x are their embeddings.

    Args:
        program, skips, batches: the network and its data, without targets; batches that can be read again when there
            are several networks.
        networks: of "original"; "plain", without the skips' shortcuts; "reinitialized"; "reinitialized plain".
        distances: relative to the sample's own norm, above 0.
        seed: of the projection, the directions and the fresh weights.

    Returns:
        One row a network and distance: network, distance, samples, correlation, correlation_std.
    """
    if not distances or min(distances) <= 0:
        raise UsageError(f"distances={tuple(distances)}: give numbers above 0, relative to a sample's norm")
    if len(networks) > 1:
        require_reiterable(batches, f"the data is read for {len(networks)} networks")
    rows = []
    for variant in variants(program, skips.check(program).require_merges(), networks, seed):
        moments, samples = Moments(), 0
        nearby = _Nearby(program, variant, distances, seed)
        for given, correlations in map_batches(program, batches, nearby.correlations):
            moments.add(correlations)
            samples += given.size
        pairs = zip(distances, moments.means().tolist(), moments.deviations().tolist(), strict=True)
        rows += [(variant.name, distance, samples, mean, deviation) for distance, mean, deviation in pairs]
    return MeasureTable.of(
        __name__, pd.DataFrame(rows, columns=["network", "distance", "samples", "correlation", "correlation_std"])
    )


class _Nearby:
    def __init__(self, program: Program, variant: Variant, distances: Sequence[float], seed: int) -> None:
        self.program, self.variant, self.distances, self.seed = program, variant, distances, seed
        self.origin = input_leaves(program)
        self.tensors = {**detached_tensors(program), **variant.tensors}

    def correlations(self, given: BoundBatch) -> Tensor:
        """(samples, distances); NaN where a gradient is zero."""
        here = self._gradient(given, 0.0)
        return torch.stack([_cosine(here, self._gradient(given, each)) for each in self.distances], dim=1)

    def _gradient(self, given: BoundBatch, distance: float) -> Tensor:
        """(samples, entries) of the projected output's gradient at the given distance from the samples."""
        generator = torch.Generator().manual_seed(self.seed)  # the same directions for every distance
        leaves: list[Tensor] = []

        def leaf(op: Op, value: Tensor) -> Tensor:
            moved = value.detach() + distance * self._directions(op, value.detach(), given.size, generator)
            leaves.append(moved.requires_grad_())
            return leaves[-1]

        patches = {**self.variant.edges, **replace_values(self.program, self.origin, leaf)}
        with own_randomness(self.program), torch.inference_mode(False), torch.enable_grad():  # dropout is the same
            execution = Execution(self.program, given.args, given.kwargs, patches=patches, tensors=self.tensors)
            ends = [t for t in pytree.tree_leaves(execution.finish()) if isinstance(t, Tensor) and t.requires_grad]
            for end in ends:  # of NaN, a ReLU's gradient is zero
                finite(self.program, given, end, "an output")
            onto = [_normal(end[:1], self.seed).expand_as(end) for end in ends]
            grads = torch.autograd.grad(ends, leaves, onto, allow_unused=True, materialize_grads=True)
        parts = zip(self.origin, grads, strict=True)
        rows = torch.cat([by_sample(self.program, op, grad, given.size) for op, grad in parts], dim=1)
        return finite(self.program, given, rows, "the gradient of the input")

    def _directions(self, op: Op, value: Tensor, size: int, generator: torch.Generator) -> Tensor:
        """Normal noise, for each sample as large as the sample."""
        noise = torch.randn(value.shape, generator=generator).to(value)
        if not len(value):
            return noise
        rows, norms = by_sample(self.program, op, noise, size), by_sample(self.program, op, value, size).norm(dim=1)
        scale = norms / rows.norm(dim=1)
        return noise * self.program.layouts[op.index].spread(scale, value).to(value)


def _normal(like: Tensor, seed: int) -> Tensor:
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(seed)).to(like)


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    a, b = a.double(), b.double()
    return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))


def sentences(table: pd.DataFrame) -> Iterator[str]:
    """At the distance at which the networks differ most."""
    known = finite_in(table, "correlation")
    if known.empty:
        return
    by_distance = known.groupby("distance")["correlation"]
    distance = float((by_distance.max() - by_distance.min()).idxmax())  # type: ignore[arg-type]
    rows = known[known["distance"] == distance]
    parts = [
        f"{row['correlation']:+.2f}{within(interval_of(row, 'correlation'), '+.2f')} in the {row['network']} network"
        for _, row in rows.iterrows()
    ]
    yield f"At a distance of {distance:g} of the input's norm its gradients correlate by {', '.join(parts)}."


MEASURE = Measure(
    function=shattering,
    run=lambda inputs: shattering(inputs.program, inputs.skips, inputs.batches, **inputs.options),
    sentences=sentences,
    columns=(
        Column("network", "network", "text", doc="the network that the gradient is of"),
        Column("distance", "distance", doc="distance of the two inputs", unit="norm of the input"),
        SAMPLES,
        Column("correlation", "correlation", "std", doc="cosine of the gradients at the two inputs"),
    ),
    title="Shattering",
    reading="Correlation of the gradients at an input and at a nearby one; bands: 95 % interval over samples.",
    chart="shattering",
    options=("networks",),
    check=check_networks,
)
