"""How blocks and networks stretch small changes: singular values of Jacobians, with shortcuts and without."""

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh
from torch import Tensor

from skiplab.analysis.edges import shortcut_edges
from skiplab.analysis.skips import Skips
from skiplab.data.bound_batches import Batch, BoundBatch, divisible
from skiplab.errors import UsageError
from skiplab.graph.interpreter import Edge, Execution
from skiplab.graph.program import Op, Program
from skiplab.measure.batches import finite, map_batches
from skiplab.measure.features import NETWORK, fork_of, network_ends, sampled
from skiplab.measure.jacobian import Jacobian
from skiplab.measure.moments import column_names
from skiplab.measure.protocol import ORDER, SAMPLES, Measure
from skiplab.measure.table import MeasureTable
from skiplab.stats.columns import Column
from skiplab.stats.wording import counted, extremes, finite_in, interval_of, short

_SIDE, _ENTRIES = 512, 2**25  # a Jacobian within both limits is built as a matrix
_PROBES = 32  # random vectors for the trace of a larger one
_RESTARTS = 20  # of about ten products each, before Lanczos iteration gives up


def spectrum(program: Program, skips: Skips, batches: Iterable[Batch], samples: int = 4, seed: int = 0) -> MeasureTable:
    """Singular values of the Jacobian of each block, and of the whole network, with shortcuts and without.

    For a skip, J = ∂merge/∂fork, with everything that does not come from the fork held constant. For the whole
    network, J = ∂output/∂input: of its first real output by its first real input, or by the first embeddings of token
    ids. Each has a row "original" and a row "plain": the same at the same point with zeros on the shortcut's edges
    into the merge (for the network, on those of all `skips`), so that only the branch remains.

    - largest, smallest: of the min(m, n) singular values of J, shape (m, n): how far the most and the least
      amplified direction are stretched. Unit: that of the output per unit of the input.
    - mean_square: tr(JᵀJ)/n = E‖Jv‖² over directions v of length 1 at the input: above 1 a random small change
      grows. (Where m < n this is less than the mean of the squared singular values, by m/n.)
    - condition: largest / smallest, scale-free; 1 is dynamical isometry (Saxe, McClelland and Ganguli 2014, §3;
      Pennington, Schoenholz and Ganguli 2017).

    Exact where J is small (one side of at most 512, and 2²⁵ entries). Otherwise `exact` is False and J is never built:
    largest and smallest by Lanczos iteration on J's smaller Gram matrix, NaN where it does not converge to three
    digits in about 200 products or is too small for the network's precision (so a singular J has NaN, not 0);
    mean_square by Hutchinson's estimate over 32 random vectors (within about 3 % where many directions matter).

    Args:
        program: the captured network. In a training graph, or with a fixed batch size, the Jacobian is by one sample
            with the other samples of its batch constant.
        skips: those to measure, one by one; several may share a merge.
        batches: pairs (inputs, target); the target is not used.
        samples: how many to measure, from the first on.
        seed: for the random vectors, drawn from generators of their own.

    Returns:
        One row a skip and one for the network (id "network"), each as "original" and as "plain": id, network,
        order, samples, largest, largest_std, smallest, smallest_std, mean_square, mean_square_std, condition (its
        mean over samples), exact.
    """
    if samples < 1:
        raise UsageError(f"samples must be at least 1, got {samples}")
    places = _places(program, skips.check(program).require_merges())
    found: dict[_Place, list[Tensor]] = {place: [] for place in places}
    done = 0

    def work(given: BoundBatch) -> dict[_Place, Tensor]:
        return _measured(program, given, places, min(given.size, samples - done), np.random.default_rng((seed, done)))

    together = program.training or not divisible(program)
    for _, values in map_batches(program, batches, work, None if together else 1):
        for place, of_samples in values.items():
            found[place].append(of_samples)
        done += len(values[places[0]])
        if done == samples:
            break
    return MeasureTable.of(
        __name__, pd.DataFrame([_row(place, torch.cat(found[place])) for place in places], columns=_COLUMNS)
    )


_QUANTITIES = ("largest", "smallest", "mean_square")
_COLUMNS = ["id", "network", "order", "samples", *column_names(_QUANTITIES), "condition", "exact"]


@dataclass(frozen=True)
class _Place:
    """One Jacobian to measure: of the value of `target` by that of `source`."""

    id: str
    network: str
    source: Op
    target: Op
    zeroed: tuple[Edge, ...]


def _places(program: Program, skips: Skips) -> list[_Place]:
    places = []
    for skip in skips:
        fork, merge = fork_of(program, skip), program.by_name[skip.merge]
        places.append(_Place(skip.id, "original", fork, merge, ()))
        places.append(_Place(skip.id, "plain", fork, merge, shortcut_edges(program, skip)))
    first, last = network_ends(program)
    if first is None or last is None:
        raise UsageError(f"{program.name} has no real-valued input and output, between which there is no Jacobian")
    every = tuple(edge for skip in skips for edge in shortcut_edges(program, skip))
    places += [_Place(NETWORK, "original", first, last, ()), _Place(NETWORK, "plain", first, last, every)]
    return places


def _measured(
    program: Program, given: BoundBatch, places: list[_Place], rows: int, random: np.random.Generator
) -> dict[_Place, Tensor]:
    """For each place, (rows, 5): largest, smallest, mean square, condition, and whether they are exact."""
    found: dict[_Place, Tensor] = {}
    with torch.no_grad():
        execution = Execution(program, given.args, given.kwargs)
        ordered = sorted(places, key=lambda place: place.source.index)
        for source, together in itertools.groupby(ordered, key=lambda place: place.source):
            sampled(program, given, source, execution.value(source.name), source.module or source.name)
            for place in together:
                _require_samples_first(program, place)
                of_rows = [_values(program, given, execution, place, row, random) for row in range(rows)]
                found[place] = torch.tensor(of_rows, dtype=torch.double)
    return found


def _require_samples_first(program: Program, place: "_Place") -> None:
    if program.layouts[place.target.index].samples != 0:
        raise UsageError(
            f"the output of `{place.id}` has its samples in another dimension than the first: leave it out, as in "
            "`Skips(s for s in skips if …)`"
        )


def _values(
    program: Program, given: BoundBatch, execution: Execution, place: _Place, row: int, random: np.random.Generator
) -> list[float]:
    jacobian = Jacobian(execution, place.source.name, place.target.name, row, place.zeroed)
    if not place.zeroed:
        finite(program, given, jacobian.y, f"the output of `{place.id}`")
    m, n = jacobian.shape
    exact = min(m, n) <= _SIDE and m * n <= _ENTRIES
    largest, smallest, mean_square = _built(jacobian) if exact else _estimated(jacobian, random)
    condition = largest / smallest if smallest else math.inf
    return [largest, smallest, mean_square, condition, float(exact)]


def _built(jacobian: Jacobian) -> tuple[float, float, float]:
    matrix = jacobian.matrix()
    if not matrix.isfinite().all():
        return math.nan, math.nan, math.nan
    singular = torch.linalg.svdvals(matrix)
    return float(singular[0]), float(singular[-1]), float(matrix.square().sum() / matrix.shape[1])


def _estimated(jacobian: Jacobian, random: np.random.Generator) -> tuple[float, float, float]:
    m, n = jacobian.shape
    signs = (torch.from_numpy(random.choice([-1.0, 1.0], m)) for _ in range(_PROBES))
    mean_square = sum(float(jacobian.transposed_times(u).square().sum()) for u in signs) / (_PROBES * n)
    if not math.isfinite(mean_square):
        return math.nan, math.nan, math.nan

    operator = _Gram(jacobian)
    largest, smallest = (_extreme(operator, which, random) for which in ("LA", "SA"))
    if not smallest > torch.finfo(jacobian.x.dtype).eps * largest:
        smallest = math.nan
    return math.sqrt(max(largest, 0.0)), math.sqrt(smallest), mean_square


class _Gram(LinearOperator):
    """JJᵀ or JᵀJ, whichever is smaller: its eigenvalues are the squares of J's singular values."""

    def __init__(self, jacobian: Jacobian) -> None:
        m, n = jacobian.shape
        self.steps = (
            [jacobian.transposed_times, jacobian.times] if m <= n else [jacobian.times, jacobian.transposed_times]
        )
        super().__init__(np.float64, (min(m, n), min(m, n)))

    def _matvec(self, x: np.ndarray) -> np.ndarray:
        first, second = self.steps
        return second(first(torch.from_numpy(x))).numpy()


def _extreme(operator: LinearOperator, which: str, random: np.random.Generator) -> float:
    """The largest ("LA") or smallest ("SA") eigenvalue; NaN where the iteration does not converge."""
    start = random.standard_normal(operator.shape[0])
    options = {"v0": start, "maxiter": _RESTARTS, "tol": 1e-3, "return_eigenvectors": False}
    try:
        values = eigsh(operator, 1, which=which, **options)
    except ArpackNoConvergence:
        return math.nan
    return float(values[0])


def _row(place: _Place, values: Tensor) -> list:
    """values: (samples, 5), as `_measured` gives them."""
    means, deviations = values.mean(0).tolist(), values.std(0).tolist() if len(values) > 1 else [math.nan] * 5
    quantities = [number for i in range(3) for number in (means[i], deviations[i])]
    return [place.id, place.network, place.target.index, len(values), *quantities, means[3], means[4] == 1]


def sentences(table: pd.DataFrame) -> Iterator[str]:
    """Whether blocks keep the size of small changes, and the whole network with and without shortcuts."""
    own = finite_in(table[(table["network"] == "original") & (table["id"] != NETWORK)], "mean_square")
    if len(own):
        intervals = [interval_of(row, "mean_square") for _, row in own.iterrows()]
        outside = sum(low > 1 or high < 1 for low, high in intervals)
        yield (
            f"The mean squared singular value of a block's Jacobian is {short(own['mean_square'].median())} in the "
            f"median of {counted(own, 'skip')} (1 keeps the size of a small change): {extremes(own, 'mean_square')}; "
            f"{outside} of {len(own)} intervals of 95 % exclude 1."
        )
    whole = table[table["id"] == NETWORK].set_index("network")["mean_square"]
    if whole.notna().all() and {"original", "plain"} <= set(whole.index):
        original, plain = short(whole["original"]), short(whole["plain"])
        yield f"Of the whole network it is {original}, and {plain} without the shortcuts."


MEASURE = Measure(
    function=spectrum,
    run=lambda inputs: spectrum(inputs.program, inputs.skips, inputs.batches),
    sentences=sentences,
    columns=(
        Column("skip", "id", doc='id of the skip, or "network"'),
        Column("network", "network", "text", doc='"original", or "plain" for zeros in place of the shortcut'),
        ORDER,
        SAMPLES,
        Column("largest", "largest", doc="largest singular value", unit="output per unit of input"),
        Column("smallest", "smallest", doc="smallest singular value", unit="output per unit of input"),
        Column("mean square", "mean_square", "std", doc="tr(JᵀJ)/n", unit="(output per unit of input)²"),
        Column("condition", "condition", doc="largest / smallest, mean over samples"),
        Column("", "exact", doc="whether the Jacobian was built, rather than estimated"),
    ),
    title="Spectrum",
    reading="From the smallest to the largest singular value of each block's Jacobian, with the root mean square; the "
    "line at 1 is a block that keeps the size of small changes.",
    chart="spectrum",
)
