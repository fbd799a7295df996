"""How far the map of each block, and of the whole network, is from an affine one."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from skiplab.analysis.skips import Skips
from skiplab.data.bound_batches import Batch, BoundBatch, divisible, validate_batches
from skiplab.errors import DataError, UsageError
from skiplab.graph.interpreter import Execution
from skiplab.graph.program import Op, Program
from skiplab.measure.affine_fit import unexplained
from skiplab.measure.batches import map_batches, own_randomness
from skiplab.measure.features import NETWORK, fork_of, network_ends, outputs, sampled
from skiplab.measure.protocol import SAMPLES, Measure
from skiplab.measure.table import MeasureTable
from skiplab.stats.columns import Column
from skiplab.stats.wording import counted, extremes, finite_in, short

_ROWS = 8192  # positions, of all samples together, to fit and score on
_TARGETS = 256  # numbers that an output is reduced to


def linearity(
    program: Program, skips: Skips, batches: Iterable[Batch], samples: int = 512, seed: int = 0
) -> MeasureTable:
    """Three distances of a block's map f: from the best affine map, from being affine at midpoints, from the identity.

    A block maps the fork (of the first of the skips that share the merge) to the merge's value after the activation
    that follows it. The network maps its first real input, or the first embeddings of token ids, to its first real
    output. All three are dimensionless and invariant to the scale of f's output (the last one to a common scale of
    input and output).

    - nonlinearity: 1 − R² of the best affine map, ‖Y − Ŷ‖² / ‖Y − Ȳ‖²: fitted by ridge regression on every other
      sample, with the penalty of least leave-one-out error there, and scored on the rest. 0 for an affine f; 1 for no
      better than the mean; above 1 for worse. For sequences (N, T, C) of one length in and out, one map is fitted to
      all positions (Razzhigaev et al. 2024, §3, for Transformers), at most 8,192 of them; otherwise to whole
      flattened samples. With fewer `rows` than `features` it cannot be small even for an affine f: read it as an
      upper bound. An output of more than 256 numbers is reduced to 256 by a fixed random projection (count sketch),
      which preserves both sums in expectation.
    - bend: E‖f((a+b)/2) − (f(a)+f(b))/2‖² / E‖(f(a)−f(b))/2‖² over pairs of consecutive inputs in a batch, with
      everything that does not come from the fork held constant: exactly 0 for an affine f; it needs no fit and few
      samples.
    - distance_from_identity: E‖f(x) − x‖² / E‖x‖²; NaN where shapes differ.

    Memory: the input of one block at a time for all samples; the network runs again for each block.

    Args:
        program: the captured network.
        skips: those whose merges are measured.
        batches: pairs (inputs, target), of two samples or more for `bend`; the target is not used.
        samples: how many to measure on, from the first on.
        seed: for the projection and the choice of positions, drawn from a generator of its own.

    Returns:
        One row a block, in the order of the graph, then one for the network (id "network"): id, order, samples,
        rows (fitted on), features, nonlinearity, bend, distance_from_identity.

    Raises:
        DataError: fewer than four samples; values that are not finite.
    """
    if samples < 4:
        raise UsageError(f"samples must be at least 4, two to fit and two to score, got {samples}")
    maps = _maps(program, skips.check(program).require_merges())
    kept = _first(program, batches, samples)
    rows = [(name, *_measured(program, each_map, kept, seed)) for name, each_map in maps]
    return MeasureTable.of(__name__, pd.DataFrame(rows, columns=_COLUMNS))


_COLUMNS = "id order samples rows features nonlinearity bend distance_from_identity".split()


@dataclass(frozen=True)
class _Map:
    """The map from the value of one op to that of a later one.

    Attributes:
        sequence: whether both are sequences of the same length, with channels last.
    """

    source: Op
    target: Op
    sequence: bool


@dataclass(frozen=True, eq=False)
class _Seen:
    """From one batch: rows to fit, shape (samples, positions, features or targets), and sums of squares, shape (4,)."""

    inputs: Tensor
    outputs: Tensor
    sums: Tensor


def _maps(program: Program, skips: Skips) -> list[tuple[str, _Map]]:
    forks = {skip.id: fork_of(program, skip) for skip in skips}
    ends = [(name, forks[name], op) for name, op in outputs(program, skips).items()]
    first, last = network_ends(program)
    if first is not None and last is not None:
        ends.append((NETWORK, first, last))
    return [(name, _Map(a, b, _are_sequences(program, a, b))) for name, a, b in ends]


def _are_sequences(program: Program, *ops: Op) -> bool:
    layouts = {program.layouts[op.index].positions for op in ops}
    return layouts == {(1,)} and len({op.shape[1] for op in ops}) == 1


def _first(program: Program, batches: Iterable[Batch], samples: int) -> list[Batch]:
    kept, count = [], 0
    for given in validate_batches(program, batches):
        part = given.part(0, samples - count) if divisible(program) else given
        kept.append((part.inputs, None))
        count += part.size
        if count >= samples:
            break
    if count < 4:
        raise DataError(f"linearity needs at least 4 samples, two to fit and two to score, got {count}")
    return kept


def _measured(program: Program, of: _Map, kept: list[Batch], seed: int) -> tuple:
    """A row of the table, without its id."""
    reduce = _Reduction(of, sum(given.size for given in validate_batches(program, kept)), seed)
    seen = [result for _, result in map_batches(program, kept, lambda given: _seen(program, given, of, reduce))]
    x, y = torch.cat([s.inputs for s in seen]), torch.cat([s.outputs for s in seen])
    fitted, scored = ((x[half::2].flatten(0, 1), y[half::2].flatten(0, 1)) for half in (0, 1))
    bent, spread, moved, size = torch.stack([s.sums for s in seen]).sum(0).tolist()
    ratios = (bent / spread if spread else math.nan, moved / size if size else math.nan)
    return of.target.index, len(x), len(fitted[0]), x.shape[2], unexplained(fitted, scored), *ratios


def _seen(program: Program, given: BoundBatch, of: _Map, reduce: "_Reduction") -> _Seen:
    with torch.no_grad():
        execution = Execution(program, given.args, given.kwargs)
        a = sampled(program, given, of.source, execution.value(of.source.name), of.source.module or of.source.name)

        def f(value: Tensor) -> Tensor:
            patches = {(node.name, of.source.name): lambda _: value for node in program.nodes[of.source.name].users}
            with own_randomness(program):  # the same dropout at every point
                return execution.fork(patches).value(of.target.name)

        b = a.roll(1, 0)
        of_a = sampled(program, given, of.target, f(a), of.target.module or of.target.name)
        of_b, of_middle = f(b), f((a + b) / 2)
        sums = [_squares(of_middle - (of_a + of_b) / 2), _squares((of_a - of_b) / 2)]
        sums += [_squares(of_a - a), _squares(a)] if a.shape == of_a.shape else [math.nan, math.nan]
    return _Seen(reduce.rows(a), reduce.sketch(reduce.rows(of_a)), torch.tensor(sums, dtype=torch.double))


def _squares(value: Tensor) -> float:
    return float(value.double().square().sum())


class _Reduction:
    """The rows of inputs and outputs that enter the fit, reduced in size; the same choice for all batches."""

    def __init__(self, of: _Map, samples: int, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.positions: Tensor | None = None
        if of.sequence and isinstance(length := of.source.shape[1], int):
            self.positions = torch.randperm(length, generator=self.generator)[: max(_ROWS // samples, 1)]
        self.bucket: Tensor | None = None

    def rows(self, value: Tensor) -> Tensor:
        """Shape (samples, positions, channels); a whole sample counts as one position."""
        if self.positions is None:
            return value.reshape(len(value), 1, -1)
        return value[:, self.positions.to(value.device)]

    def sketch(self, rows: Tensor) -> Tensor:
        """Adds each number, with a random sign, to a random one of 256 (Charikar, Chen and Farach-Colton 2002)."""
        size = rows.shape[-1]
        if size <= _TARGETS:
            return rows
        if self.bucket is None:
            self.bucket = torch.randint(_TARGETS, (size,), generator=self.generator)
            self.sign = torch.randint(2, (size,), generator=self.generator) * 2 - 1
        bucket, sign = self.bucket.to(rows.device), self.sign.to(rows)
        return rows.new_zeros(*rows.shape[:2], _TARGETS).index_add(2, bucket, rows * sign)


def sentences(table: pd.DataFrame) -> Iterator[str]:
    """What the best linear map leaves unexplained, and the bend."""
    known = finite_in(table[table["id"] != NETWORK], "nonlinearity")
    if known.empty:
        return
    few = int((known["rows"] < known["features"]).sum())
    bound = f"; in {few} an upper bound, since there are fewer samples than features" if few else ""
    yield (
        f"The best linear map leaves {known['nonlinearity'].median():.0%} of what a block does unexplained in the "
        f"median of {counted(known, 'skip')}: {extremes(known, 'nonlinearity', '.0%')}{bound}."
    )
    bend = finite_in(known, "bend")
    if len(bend):
        middle, span = short(bend["bend"].median()), extremes(bend, "bend")
        yield f"Its bend halfway between two inputs, which needs no fit, is {middle} in the median: {span}."


MEASURE = Measure(
    function=linearity,
    run=lambda inputs: linearity(inputs.program, inputs.skips, inputs.batches),
    sentences=sentences,
    columns=(
        Column("skip", "id", doc='id of the block\'s first skip, or "network"'),
        Column("", "order", doc="index of the block's output in the graph, to sort by"),
        SAMPLES,
        Column("", "rows", doc="number of rows that the map is fitted on"),
        Column("", "features", doc="number of features of a row"),
        Column("not linear", "nonlinearity", "share", doc="1 − R² of the best affine map"),
        Column("bend", "bend", doc="squared deviation from affine at midpoints, relative"),
        Column("from identity", "distance_from_identity", doc="E‖f(x) − x‖² / E‖x‖²"),
    ),
    title="Linearity",
    reading="The part of each block that the best linear map does not explain, and the distance from the identity.",
    chart="linearity",
)
