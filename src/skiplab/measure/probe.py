"""How well a linear classifier separates the classes on each block's output."""

from collections.abc import Iterable, Iterator

import pandas as pd
import torch
from scipy.stats import binomtest
from torch import Tensor

from skiplab.analysis.skips import Skips
from skiplab.data.bound_batches import Batch, BoundBatch
from skiplab.data.sources import split_batches
from skiplab.errors import DataError, UsageError
from skiplab.graph.program import Op, Program
from skiplab.measure.batches import map_batches
from skiplab.measure.features import first_real, outputs, reduced, tokens
from skiplab.measure.protocol import Measure, MeasureInputs
from skiplab.measure.table import MeasureTable
from skiplab.stats.columns import Column
from skiplab.stats.wording import ends_of, finite_in, within

_PIXELS = 4096  # an input with more features has no row: the matrix of their products would fill the memory


def probe(
    program: Program, skips: Skips, batches: Iterable[Batch], held_out: Iterable[Batch], ridge: float = 1.0
) -> MeasureTable:
    """Accuracy of a linear classifier on the output of each block: where along the network the classes separate.

    The output of a block is its merge's value after the activation that follows it, averaged over positions:
    (N, C, H, W) and (N, T, C) become (N, C). Each feature is standardized over `batches`, the classes are coded
    one-hot, and ridge regression min ‖Y − XW − b‖² + ridge·‖W‖² is solved in closed form; the largest score wins.
    Alain and Bengio 2016, §3 (who use logistic regression).

    Accuracies are shares of samples in [0, 1], with Wilson's 95 % interval over the held-out samples; the choice of
    training samples is not part of it. Invariant to scaling and shifting of each feature. Memory: for each block the
    square of its features in doubles, independent of the number of batches.

    Args:
        program: the captured network.
        skips: those whose merges are probed; several that share a merge give one row, named by the first.
        batches: pairs (inputs, class indices of shape (N,)) to fit the classifiers on; read twice, so a list or a
            loader, and no generator.
        held_out: the same, of samples that are not in `batches`, for the accuracy.
        ridge: strength of the penalty, above 0, for features of standard deviation 1.

    Returns:
        One row a block, in the order of the graph: id, order, features, samples (fitted on), held_out, accuracy,
        accuracy_low, accuracy_high, train_accuracy. Row "input" is the network's first input, where it is real and
        of at most 4,096 features, flattened; row "output" the network's first real output.

    Raises:
        UsageError: a ridge of 0 or less; batches that can be read only once.
        DataError: targets that are no class indices; values that are not finite.
    """
    if not ridge > 0:
        raise UsageError(f"ridge must be above 0, got {ridge:g}: features that depend on each other need it")
    if iter(batches) is batches:
        raise UsageError("probe reads `batches` twice, and a generator can be read once: pass a list")
    ops = _probed(program, skips.check(program).require_merges())
    probes = {name: _Probe() for name in ops}
    for given, features in map_batches(program, batches, lambda given: _features(program, given, ops)):
        for name, x in features.items():
            probes[name].add(x, _classes(given))
    for each_probe in probes.values():
        each_probe.fit(ridge)
    right, _ = _score(program, ops, probes, batches)
    right_held_out, held = _score(program, ops, probes, held_out)
    rows = []
    for name, op in ops.items():
        fitted, trained = probes[name], probes[name].count
        interval = binomtest(right_held_out[name], held).proportion_ci(0.95, method="wilson")
        accuracy = (right_held_out[name] / held, interval.low, interval.high, right[name] / trained)
        rows.append((name, op.index, len(fitted.mean), trained, held, *accuracy))
    return MeasureTable.of(__name__, pd.DataFrame(rows, columns=_COLUMNS))


_COLUMNS = "id order features samples held_out accuracy accuracy_low accuracy_high train_accuracy".split()


class _Probe:
    """Ridge regression from features to one-hot classes, on sums that grow batch by batch.

    The sums are of features minus the first batch's mean, since squares of numbers far from zero lose digits.
    """

    def __init__(self) -> None:
        self.count = 0

    def add(self, x: Tensor, classes: Tensor) -> None:
        """x: (n, features), double; classes: (n,)."""
        if not self.count:
            self.origin, self.sum = x.mean(0), torch.zeros_like(x[0])
            self.squares, self.of_class = x.new_zeros(x.shape[1], x.shape[1]), x.new_zeros(0, x.shape[1])
            self.sizes = x.new_zeros(0)
        x = x - self.origin
        more = max(int(classes.max()) + 1 - len(self.sizes), 0)
        self.sizes = torch.cat((self.sizes, x.new_zeros(more))).index_add(0, classes, x.new_ones(len(x)))
        self.of_class = torch.cat((self.of_class, x.new_zeros(more, x.shape[1]))).index_add(0, classes, x)
        self.count += len(x)
        self.sum += x.sum(0)
        self.squares += x.T @ x

    def fit(self, ridge: float) -> None:
        shift = self.sum / self.count
        covariance = self.squares - self.count * torch.outer(shift, shift)
        deviation = (covariance.diagonal() / self.count).clamp(min=0).sqrt()
        self.scale = torch.where(deviation > 0, deviation, 1.0)
        penalised = covariance / torch.outer(self.scale, self.scale)
        penalised.diagonal().add_(ridge)
        towards = (self.of_class - torch.outer(self.sizes, shift)) / self.scale
        self.weights = torch.cholesky_solve(towards.T, torch.linalg.cholesky(penalised))
        self.mean, self.shares = self.origin + shift, self.sizes / self.count

    def classes(self, x: Tensor) -> Tensor:
        return ((x - self.mean) / self.scale @ self.weights + self.shares).argmax(1)


def _probed(program: Program, skips: Skips) -> dict[str, Op]:
    """The ops that have a row, by its name."""
    entry = first_real(program, (op.index for op in program.ops if op.kind == "input"))
    small = entry is not None and entry.shape.count(None) < 2 and _features_of(entry) <= _PIXELS
    end = first_real(program, program.outputs)
    first = {"input": entry} if small and entry is not None else {}
    return {**first, **outputs(program, skips), **({"output": end} if end is not None else {})}


def _features_of(entry: Op) -> int:
    return torch.Size(size or 1 for size in entry.shape[1:]).numel()


def _features(program: Program, given: BoundBatch, ops: dict[str, Op]) -> dict[str, Tensor]:
    """Shape (samples, features) for each op, in double precision."""
    _classes(given)

    def reduce(name: str, value: Tensor) -> Tensor:
        features = value.flatten(1) if name == "input" else tokens(program, ops[name], value).double().mean(1)
        return features.double().cpu()

    return reduced(program, given, ops, reduce)


def _classes(given: BoundBatch) -> Tensor:
    target = given.target
    whole = isinstance(target, Tensor) and not (target.is_floating_point() or target.is_complex())
    if not whole or target.shape != (given.size,) or bool((target < 0).any()):
        got = f"{target.dtype} of shape {tuple(target.shape)}" if isinstance(target, Tensor) else type(target).__name__
        raise DataError(f"a probe needs one class index, 0 or above, for each of {given.size} samples, got {got}")
    return target.long().cpu()


def _score(
    program: Program, ops: dict[str, Op], probes: dict[str, _Probe], batches: Iterable[Batch]
) -> tuple[dict[str, int], int]:
    """How many samples each probe classifies correctly, and of how many."""
    right, count = dict.fromkeys(ops, 0), 0
    for given, features in map_batches(program, batches, lambda given: _features(program, given, ops)):
        count += given.size
        for name, x in features.items():
            right[name] += int((probes[name].classes(x) == _classes(given)).sum())
    return right, count


def sentences(table: pd.DataFrame) -> Iterator[str]:
    """The first and the last accuracy."""
    known = finite_in(table, "accuracy").sort_values("order")
    if known.empty:
        return
    first, last = known.iloc[0], known.iloc[-1]
    start, end = ends_of(first, "accuracy"), ends_of(last, "accuracy")
    overlap = "; the two intervals overlap" if start[1] >= end[0] and end[1] >= start[0] else ""
    yield (
        f"A linear classifier of the features is right for {first['accuracy']:.0%}{within(start, '.0%')} of held-out "
        f"samples at `{first['id']}` and for {last['accuracy']:.0%}{within(end, '.0%')} at `{last['id']}`{overlap}."
    )


def _run(inputs: MeasureInputs) -> pd.DataFrame:
    """Fitted on three quarters of every batch."""
    fitted, held_out = split_batches(inputs.program, inputs.batches)
    return probe(inputs.program, inputs.skips, fitted, held_out)


MEASURE = Measure(
    function=probe,
    run=_run,
    sentences=sentences,
    columns=(
        Column("skip", "id", doc='id of the block\'s first skip, or "input" or "output"'),
        Column("", "order", doc="index of the value in the graph, to sort by"),
        Column("", "features", doc="number of features of the classifier"),
        Column("", "samples", doc="number of samples that it is fitted on"),
        Column("", "held_out", doc="number of samples that its accuracy is of"),
        Column("accuracy", "accuracy", "interval", doc="share of held-out samples classified correctly"),
        Column("training accuracy", "train_accuracy", doc="the same of the samples that it is fitted on"),
    ),
    title="Probes",
    reading="Held-out samples that a linear classifier of each block's output gets right; band: 95 % interval.",
    chart="probe",
    needs_targets=True,
)
