"""Which blocks of a network represent their inputs in the same way."""

from collections.abc import Iterable, Iterator
from itertools import pairwise

import pandas as pd
import torch
from torch import Tensor

from skiplab.analysis.skips import Skips
from skiplab.data.bound_batches import Batch, BoundBatch
from skiplab.errors import DataError
from skiplab.graph.program import Op, Program
from skiplab.measure.batches import map_batches
from skiplab.measure.features import outputs, reduced
from skiplab.measure.protocol import SAMPLES, Measure
from skiplab.measure.table import MeasureTable
from skiplab.stats.columns import Column
from skiplab.stats.wording import counted, finite_in, row_at


def similarity(program: Program, skips: Skips, batches: Iterable[Batch]) -> MeasureTable:
    """Linear CKA between the outputs of all blocks: 1 if two differ only by rotation and scale, 0 if unrelated.

    The output X of a block is its merge's value after the activation that follows it, flattened to (n, features)
    for a batch of n samples. With K = XXᵀ, L likewise of another block, and K̃, L̃ the same with zero diagonals,

    HSIC₁(K, L) = [tr(K̃L̃) + 1ᵀK̃1 · 1ᵀL̃1 / ((n−1)(n−2)) − 2/(n−2) · 1ᵀK̃L̃1] / (n(n−3)),
    CKA = E[HSIC₁(K, L)] / √(E[HSIC₁(K, K)] · E[HSIC₁(L, L)]),

    with E the mean over batches, each weighted by its samples, taken before the ratio. HSIC₁ is unbiased, so the
    batch size changes the result only by noise, which may carry it slightly below 0 or above 1. NaN where a block's
    output does not vary. Dimensionless; invariant to orthogonal maps, shifts and scaling of either output. Memory:
    blocks × n² numbers, independent of the number of batches. Nguyen, Raghu and Kornblith 2021, §3 (arXiv:2010.15327);
    Song et al. 2012, equation 5.

    Args:
        program: the captured network.
        skips: those whose merges are compared; several that share a merge give one block, named by the first.
        batches: pairs (inputs, target), of four samples or more; the target is not used.

    Returns:
        One row an ordered pair of blocks, each with itself included: id, other, order, other_order, cka, samples.

    Raises:
        DataError: a batch of fewer than four samples, or values that are not finite.
    """
    blocks = outputs(program, skips.check(program).require_merges())
    total, samples = torch.zeros(len(blocks), len(blocks), dtype=torch.double), 0
    for given, hsic in map_batches(program, batches, lambda given: _hsic(program, given, blocks)):
        total += hsic * given.size
        samples += given.size
    scale = total.diagonal().clamp(min=0).sqrt()
    cka = torch.where(torch.outer(scale, scale) > 0, total / torch.outer(scale, scale), torch.nan)
    rows = [
        (one, other, blocks[one].index, blocks[other].index, value, samples)
        for one, line in zip(blocks, cka.tolist(), strict=True)
        for other, value in zip(blocks, line, strict=True)
    ]
    return MeasureTable.of(
        __name__, pd.DataFrame(rows, columns=["id", "other", "order", "other_order", "cka", "samples"])
    )


def _hsic(program: Program, given: BoundBatch, blocks: dict[str, Op]) -> Tensor:
    """HSIC₁ of every pair of blocks on one batch, shape (blocks, blocks)."""
    n = given.size
    if n < 4:
        raise DataError(f"a batch of {n} samples: unbiased CKA needs at least 4, so leave out a short last batch")
    grams = list(reduced(program, given, blocks, lambda _, value: _gram(value)).values())
    k = torch.stack(grams) if grams else torch.zeros(0, n, n, dtype=torch.double)
    rows = k.sum(2)
    sums = rows.sum(1)
    traces = k.flatten(1) @ k.flatten(1).T
    return (traces + torch.outer(sums, sums) / ((n - 1) * (n - 2)) - 2 / (n - 2) * rows @ rows.T) / (n * (n - 3))


def _gram(value: Tensor) -> Tensor:
    """Inner products of the samples, zero on the diagonal."""
    x = value.flatten(1)
    x = x.to(torch.promote_types(x.dtype, torch.float))
    x = x - x.mean(0)  # changes only rounding: next to a large common part, differences lose digits
    return (x @ x.T).double().cpu().fill_diagonal_(0)


def sentences(table: pd.DataFrame) -> Iterator[str]:
    """From each block to the next."""
    pairs = neighbors(finite_in(table, "cka"))
    if len(pairs):
        least = row_at(pairs, pairs["cka"].argmin())
        yield (
            f"From one skip to the next the features' similarity (CKA) is {pairs['cka'].median():.2f} in the median of "
            f"{counted(pairs, 'step')}, least from `{least['id']}` to `{least['other']}`: {least['cka']:.2f}."
        )


def neighbors(table: pd.DataFrame) -> pd.DataFrame:
    """The pairs of a block and the next one."""
    places = sorted({*table["order"], *table["other_order"]})
    after = dict(pairwise(places))
    return table[table["other_order"] == table["order"].map(after)]


MEASURE = Measure(
    function=similarity,
    run=lambda inputs: similarity(inputs.program, inputs.skips, inputs.batches),
    sentences=sentences,
    rows=neighbors,
    columns=(
        Column("from", "id", doc="id of the first skip of one block's merge"),
        Column("to", "other", doc="the same of the other block"),
        Column("", "order", doc="index of the block's output in the graph, to sort by"),
        Column("", "other_order", doc="the same of the other block"),
        Column("CKA", "cka", doc="linear CKA of the two outputs, unbiased"),
        SAMPLES,
    ),
    title="Similarity",
    reading="Linear CKA of the outputs of every two blocks: 1 where they differ only by rotation and scale.",
    chart="similarity",
)
