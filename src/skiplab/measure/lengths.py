"""How much of the gradient is carried by paths through exactly k branches, for every k."""

import warnings
from collections.abc import Iterable, Iterator
from fractions import Fraction

import pandas as pd
import torch
from torch import Tensor

from skiplab.analysis.edges import branch_edges
from skiplab.analysis.skips import Skip, Skips
from skiplab.data.bound_batches import Batch, BoundBatch, divisible
from skiplab.errors import UsageError
from skiplab.graph.interpreter import Edge, Execution, Patch, detached_tensors
from skiplab.graph.program import Op, Program
from skiplab.graph.torch_compat import pytree
from skiplab.measure.batches import Loss, batch_loss, finite, map_batches
from skiplab.measure.input_leaves import input_leaves, replace_values
from skiplab.measure.losses import named_loss
from skiplab.measure.moments import Moments
from skiplab.measure.polynomial_grad import times_z
from skiplab.measure.protocol import Measure
from skiplab.measure.table import MeasureTable
from skiplab.stats.band import band
from skiplab.stats.columns import Column
from skiplab.stats.wording import finite_in

COLUMNS = ["length", "samples", "norm", "norm_std", "share", "share_std", "weight", "weight_std", "path_share"]
_GRADIENTS = 1024  # of single samples, in flight at once


def lengths(
    program: Program, skips: Skips, batches: Iterable[Batch], loss: Loss | str, at: Skip | None = None
) -> MeasureTable:
    """The gradient of the input (or of the value at a skip's fork), split by the number of branches on its paths.

    Exact, where Veit et al. 2016 (arXiv:1605.06431, §4.3) sample paths: each branch's value F counts as z·F with a
    formal z, so that the gradient is a polynomial in z. Its coefficient of zᵏ is what all paths through exactly k of
    the `skips`' branches carry together. It takes one forward pass, and one backward pass of all coefficients at once,
    in which the end of each branch shifts them by one: the memory of n + 1 gradients, not of n + 1 passes. A branch
    nested in another counts in addition to it; a value that several concats read counts once for each on the path.

    Per sample, with c_k that coefficient and g = Σ c_k the whole gradient, then mean and standard deviation:

    - norm: ‖c_k‖, in the loss's unit per unit of the input; scales with the loss.
    - share: ⟨c_k, g⟩ / ⟨g, g⟩, which sums to 1 over k; negative or above 1 where lengths work against each other;
      invariant to the loss's scale.
    - weight: ‖c_k‖ / Σ ‖c_j‖, in [0, 1], sums to 1; invariant to the loss's scale.
    - path_share: the share of all paths that have this length: for n blocks in a row the binomial (n over k) / 2ⁿ.

    For tokens the gradient is that of their embeddings. `band` gives the range of lengths that carries 95 % of it.

    Returns:
        One row a length, 0 … the longest: length, samples, norm, share, weight, each with `_std`, path_share.
    """
    function = named_loss(loss)
    marked = {edge for skip in skips.check(program).require_merges() for edge in branch_edges(program, skip)}
    origin = input_leaves(program) if at is None else (program.by_name[Skips([at]).check(program)[0].fork],)
    counts = _path_counts(program, marked, origin)
    moments, samples = Moments(), 0

    def work(given: BoundBatch) -> Tensor:
        return _quantities(_coefficients(program, given, function, marked, origin, len(counts)))

    in_parts = divisible(program) and not program.training  # a training graph's batch norm sees whole batches
    largest = max(1, _GRADIENTS // len(counts)) if in_parts else None
    for given, quantities in map_batches(program, batches, work, largest):
        finite(program, given, quantities[:, :, 0], "the gradient")
        moments.add(quantities)
        samples += given.size
    quantities, total = moments.columns(), sum(counts)
    rows = [
        [length, samples, *quantities[length], float(Fraction(count, total))] for length, count in enumerate(counts)
    ]
    return MeasureTable.of(__name__, pd.DataFrame(rows, columns=COLUMNS))


def _coefficients(
    program: Program, given: BoundBatch, loss: Loss, marked: set[Edge], origin: tuple[Op, ...], count: int
) -> Tensor:
    """(count, samples, entries): the coefficients of each sample's own gradient."""
    leaves: list[Tensor] = []

    def leaf(_: Op, value: Tensor) -> Tensor:
        leaves.append(value.detach().requires_grad_())
        return leaves[-1]

    patches: dict[Edge, Patch] = dict.fromkeys(marked, times_z)
    for edge, begin in replace_values(program, origin, leaf).items():
        patches[edge] = (lambda value, begin=begin: times_z(begin(value))) if edge in marked else begin
    with torch.inference_mode(False), torch.enable_grad():
        output = Execution(
            program, given.args, given.kwargs, patches=patches, tensors=detached_tensors(program)
        ).finish()
        output = pytree.tree_map_only(Tensor, lambda t: t.view_as(t), output)  # one output may depend on another
        ends = [t for t in pytree.tree_leaves(output) if isinstance(t, Tensor) and t.requires_grad]
        value = batch_loss(program, given, loss, output)
        seeds = torch.autograd.grad(value, ends, retain_graph=True, allow_unused=True, materialize_grads=True)
        first = [torch.cat([seed[None], seed.new_zeros(count - 1, *seed.shape)]) for seed in seeds]

        def back(*cotangents: Tensor) -> tuple[Tensor, ...]:
            return torch.autograd.grad(
                ends, leaves, cotangents, retain_graph=True, allow_unused=True, materialize_grads=True
            )

        with warnings.catch_warnings():  # for operators without a batching rule
            warnings.filterwarnings("ignore", message="There is a performance drop")
            grads = torch.func.vmap(back)(*first)
    parts = [_by_sample(program, op, grad, given.size) for op, grad in zip(origin, grads, strict=True)]
    return given.size * torch.cat(parts, dim=2)


def _by_sample(program: Program, op: Op, grad: Tensor, size: int) -> Tensor:
    """(coefficients, …) as (coefficients, samples, entries)."""
    layout = program.layouts[op.index]
    return torch.stack([layout.by_sample(each, size) for each in grad])


def _quantities(coefficients: Tensor) -> Tensor:
    """(samples, coefficients, 3): norm, share and weight; share and weight are NaN where the gradient is zero."""
    by_sample = coefficients.transpose(0, 1).double()
    whole = by_sample.sum(1, keepdim=True)
    norms = by_sample.norm(dim=2)
    share = (by_sample * whole).sum(2) / whole.square().sum(2)
    return torch.stack([norms, share, norms / norms.sum(1, keepdim=True)], dim=2)


def _path_counts(program: Program, marked: set[Edge], origin: tuple[Op, ...]) -> list[int]:
    """How many paths from the origin to an output have 0, 1, … marked edges."""
    paths: dict[int, list[int]] = {op.index: [1] for op in origin}
    for op in program.ops:
        if op.index in paths:
            continue
        for operand in op.inputs:
            if operand in paths:
                shift = [0] * ((op.name, program.ops[operand].name) in marked)
                paths[op.index] = _sum(paths.get(op.index, []), shift + paths[operand])
    total: list[int] = []
    for index in program.outputs:
        total = _sum(total, paths.get(index, []))
    if not total:
        raise UsageError(f"no path leads from `{origin[0].name}` to an output of {program.name}")
    return total


def _sum(a: list[int], b: list[int]) -> list[int]:
    longer, shorter = (a, b) if len(a) >= len(b) else (b, a)
    return [n + (shorter[i] if i < len(shorter) else 0) for i, n in enumerate(longer)]


def sentences(table: pd.DataFrame) -> Iterator[str]:
    """By `weight`: `share` may be negative, and so has no quantiles."""
    known = finite_in(table, "weight").sort_values("length")
    if known.empty:
        yield "The gradient of the input is zero: no path carries any of it."
        return
    (low, high), (few, many) = band(known, "weight"), band(known, "path_share")
    (_, middle), (_, half) = band(known, "weight", level=0), band(known, "path_share", level=0)
    yield (
        f"95 % of the gradient comes by paths through {low} to {high} branches, half of it by paths of at most "
        f"{middle}; of the paths themselves 95 % have {few} to {many}, half at most {half}."
    )


MEASURE = Measure(
    function=lengths,
    run=lambda inputs: lengths(inputs.program, inputs.skips, inputs.batches, inputs.loss),
    sentences=sentences,
    columns=(
        Column("branches on the path", "length", doc="number k of branches on a path"),
        Column("", "samples", doc="number of samples measured"),
        Column("", "norm", doc="norm of the part c_k of the gradient on these paths", unit="loss per unit of input"),
        Column("", "share", doc="⟨c_k, g⟩ / ⟨g, g⟩ with g the whole gradient; sums to 1, may be negative"),
        Column("share of gradient", "weight", "share", doc="‖c_k‖ / Σ ‖c_j‖"),
        Column("share of paths", "path_share", "share", doc="share of all paths with this length"),
    ),
    title="Path lengths",
    reading="The gradient split by the number of branches on the paths that carry it, next to the number of paths.",
    chart="lengths",
    needs_targets=True,
)
