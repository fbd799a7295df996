"""How much of the gradient is carried by paths through exactly k branches, for every k."""

import warnings
from collections.abc import Iterable
from fractions import Fraction

import pandas as pd
import torch
from torch import Tensor

from skiplab.analysis.edges import branch_edges
from skiplab.analysis.skips import Skip, Skips
from skiplab.data.bound_batches import Batch, Given
from skiplab.errors import UsageError
from skiplab.graph.interpreter import Edge, Execution, Patch, detached_tensors
from skiplab.graph.program import Op, Program
from skiplab.graph.torch_compat import pytree
from skiplab.measure.batches import Loss, each, finite, loss_of
from skiplab.measure.input_leaves import replacing, starts
from skiplab.measure.merge_operands import sample_dimension
from skiplab.measure.moments import Moments
from skiplab.measure.polynomial_grad import raised

COLUMNS = ["length", "samples", "norm", "norm_std", "share", "share_std", "weight", "weight_std", "path_share"]
_GRADIENTS = 1024  # of single samples, in flight at once


def lengths(
    program: Program, skips: Skips, batches: Iterable[Batch], loss: Loss, at: Skip | None = None
) -> pd.DataFrame:
    """The gradient of the input (or of the value at a skip's fork), split by how many branches its paths go through.

    Exact, where Veit et al. 2016 (arXiv:1605.06431, §4.3) sample paths: each branch's value F counts as z·F with a
    formal z, so that the gradient is a polynomial in z, whose coefficient of zᵏ is what all paths through exactly k
    of the `skips`' branches carry together. One forward pass, and one backward pass of all coefficients at once,
    in which each branch's end shifts them by one: the memory is that of n + 1 gradients, not of n + 1 passes. A
    branch inside another's branch counts as well as that one; a value that several concats read counts once for
    each on the path.

    Per sample, with c_k that coefficient and g = Σ c_k the whole gradient, then mean and standard deviation:

    - norm: ‖c_k‖, in the loss's unit per unit of the input; scales with the loss.
    - share: ⟨c_k, g⟩ / ⟨g, g⟩, which sums to 1 over k and may be negative or above 1 where lengths work against
      each other; invariant to the loss's scale.
    - weight: ‖c_k‖ / Σ ‖c_j‖, in [0, 1], sums to 1; invariant to the loss's scale.
    - path_share: the share of all paths that have this length: for n blocks in a row the binomial (n over k) / 2ⁿ.

    For tokens the gradient is that of their embeddings. `band` gives the range of lengths that matters.

    Returns:
        One row a length, 0 … the longest: length, samples, norm, share, weight, each with `_std`, path_share.
    """
    marked = {edge for skip in skips.check(program).require_merges() for edge in branch_edges(program, skip)}
    origin = starts(program) if at is None else (program.by_name[Skips([at]).check(program)[0].fork],)
    counts = _path_counts(program, marked, origin)
    moments, samples = Moments(), 0

    def work(given: Given) -> Tensor:
        return _quantities(_coefficients(program, given, loss, marked, origin, len(counts)))

    divisible = program.dynamic_batch and not program.training  # a training graph's batch norm sees whole batches
    largest = max(1, _GRADIENTS // len(counts)) if divisible else None
    for given, quantities in each(program, batches, work, largest):
        finite(program, given, quantities[:, :, 0], "the gradient")
        moments.add(quantities)
        samples += given.size
    means, deviations, total = moments.means(), moments.deviations(), sum(counts)
    rows = []
    for length, count in enumerate(counts):
        pairs = zip(means[length].tolist(), deviations[length].tolist(), strict=True)
        rows.append([length, samples, *(n for pair in pairs for n in pair), float(Fraction(count, total))])
    return pd.DataFrame(rows, columns=COLUMNS)


def band(table: pd.DataFrame, column: str = "weight", level: float = 0.95) -> tuple[int, int]:
    """The shortest and longest length that are left when (1 − level) / 2 of `column` is cut off at either end."""
    below = table[column].cumsum() / table[column].sum()
    low, high = (1 - level) / 2, (1 + level) / 2
    return int(table["length"][below > low].iloc[0]), int(table["length"][below >= high - 1e-12].iloc[0])


def _coefficients(
    program: Program, given: Given, loss: Loss, marked: set[Edge], origin: tuple[Op, ...], count: int
) -> Tensor:
    """(count, samples, entries): the coefficients of each sample's own gradient."""
    leaves: list[Tensor] = []

    def leaf(_: Op, value: Tensor) -> Tensor:
        leaves.append(value.detach().requires_grad_())
        return leaves[-1]

    patches: dict[Edge, Patch] = dict.fromkeys(marked, raised)
    for edge, begin in replacing(program, origin, leaf).items():
        patches[edge] = (lambda value, begin=begin: raised(begin(value))) if edge in marked else begin
    with torch.inference_mode(False), torch.enable_grad():
        output = Execution(
            program, given.args, given.kwargs, patches=patches, tensors=detached_tensors(program)
        ).finish()
        output = pytree.tree_map_only(Tensor, lambda t: t.view_as(t), output)  # one output may depend on another
        ends = [t for t in pytree.tree_leaves(output) if isinstance(t, Tensor) and t.requires_grad]
        value = loss_of(program, given, loss, output)
        seeds = torch.autograd.grad(value, ends, retain_graph=True, allow_unused=True, materialize_grads=True)
        first = [torch.cat([seed[None], seed.new_zeros(count - 1, *seed.shape)]) for seed in seeds]

        def back(*cotangents: Tensor) -> tuple[Tensor, ...]:
            return torch.autograd.grad(
                ends, leaves, cotangents, retain_graph=True, allow_unused=True, materialize_grads=True
            )

        with warnings.catch_warnings():  # an operator without a rule for many gradients at once takes one by one
            warnings.filterwarnings("ignore", message="There is a performance drop")
            grads = torch.func.vmap(back)(*first)
    parts = [_by_sample(program, op, grad, given.size) for op, grad in zip(origin, grads, strict=True)]
    return given.size * torch.cat(parts, dim=2)


def _by_sample(program: Program, op: Op, grad: Tensor, size: int) -> Tensor:
    """(coefficients, …) as (coefficients, samples, entries)."""
    dim = sample_dimension(program, op, size)
    return grad.reshape(len(grad), 1, -1) if dim is None else grad.movedim(dim + 1, 1).reshape(len(grad), size, -1)


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
