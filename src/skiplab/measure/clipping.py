"""What the activation after each merge removes from the signal that the shortcut carries."""

from collections.abc import Iterable, Iterator

import pandas as pd
import torch
from torch import Tensor

from skiplab.analysis.merges import Merge
from skiplab.analysis.skips import Skip, Skips
from skiplab.data.bound_batches import Batch, BoundBatch
from skiplab.graph.interpreter import Edge, Patch
from skiplab.graph.ops import Op, is_concat, op_info
from skiplab.graph.program import Program
from skiplab.measure.batches import finite
from skiplab.measure.features import output_of
from skiplab.measure.merge_operands import by_sample, collect_operands, merges_of, pad_stack, shortcut_positions
from skiplab.measure.moments import Moments, column_names
from skiplab.measure.norms import norm
from skiplab.measure.observers import Gradients, Hooks, observe
from skiplab.measure.protocol import ORDER, SAMPLES, SKIP_ID, Measure
from skiplab.measure.table import MeasureTable
from skiplab.stats.columns import Column
from skiplab.stats.wording import counted, extremes, finite_in, interval_of, plural, row_at, within

QUANTITIES = ("entries", "energy", "route_kept")
COLUMNS = ["id", "order", "samples", "activation", "route", *column_names(QUANTITIES)]


def clipping(program: Program, skips: Skips, batches: Iterable[Batch]) -> MeasureTable:
    """Share of the shortcut's signal that the activation after each addition removes.

    With x the shortcut's value, m the merge and a the activation, an entry passes with the factor g = a(m) / m: 0 or 1
    for ReLU (0 where m is 0). Per sample, then mean and standard deviation over samples:

    - entries: 1 − Σ min(|g|, 1) / n over the n entries where x is not zero: for ReLU the share that it sets to zero.
    - energy: 1 − Σ (g x)² / Σ x².
    - route_kept: Π (1 − energy) over consecutive merges, from the start of the route to this one: the share of a
      signal's energy that is left if each merge removes it independently. A route starts where a shortcut starts from
      anything but the (activated) merge before; `route` is the id of its first skip.

    All are dimensionless and invariant to the scale of the signal. They are NaN for activations that are not 0 at 0,
    such as the sigmoid, which remove nothing in this sense, and where a permutation stands between merge and
    activation. A merge without activation removes exactly nothing (pre-activation networks, He et al. 2016,
    arXiv:1603.05027, §2). Concats have no row.

    Returns:
        One row a skip whose merge adds: id, order, samples, activation (None without), route, and each quantity
        with its `_std`.
    """
    observer = Clipping(program, skips)
    observe(program, batches, [observer])
    return MeasureTable.of(__name__, observer.table())


class Clipping:
    """`clipping` as an observer of a pass."""

    backward = False

    def __init__(self, program: Program, skips: Skips) -> None:
        self.program = program
        merges = merges_of(program, skips.check(program).require_merges())
        self.merges = {name: merge for name, merge in merges.items() if not is_concat(merge.op.target)}
        self.skips = [skip for skip in skips if skip.merge in self.merges]
        self.activation = {
            skip.id: output_of(program, skip) if skip.activation_after is not None else None for skip in self.skips
        }
        self.before = _before(program, self.skips)
        self.moments = Moments()
        self.samples = 0

    def make_hooks(self, given: BoundBatch) -> Hooks:
        """Hooks on every merge that an activation follows."""
        clipped = []
        for name, merge in self.merges.items():
            skips = [skip for skip in self.skips if skip.merge == name]
            if skips and (activation := self.activation[skips[0].id]):
                clipped.append(_ClippedMerge(self.program, merge, activation, skips, given.size))

        def commit(_: Gradients) -> None:
            magnitudes = [number for each in clipped for number in each.magnitudes]
            if magnitudes:
                finite(self.program, given, torch.stack(magnitudes), "a value at a merge")
            self._commit({id: share for each in clipped for id, share in each.removed.items()}, given)

        edges = {edge: patch for each in clipped for edge, patch in each.edges().items()}
        return Hooks(commit, edges, {each.activation.name: each.on_activation for each in clipped})

    def _commit(self, removed: dict[str, Tensor], given: BoundBatch) -> None:
        if not self.skips:
            return
        nothing = torch.zeros(next((len(t) for t in removed.values()), given.size), 2, dtype=torch.double)
        kept: dict[str, Tensor] = {}
        rows = []
        for skip in self.skips:  # in the order of their merges, so that the one before is known
            share = removed.get(skip.id, nothing).cpu()
            before = self.before[skip.id]
            kept[skip.id] = (1 - share[:, 1]) * (1.0 if before is None else kept[before])
            rows.append(torch.cat([share, kept[skip.id][:, None]], dim=1))
        self.moments.add(pad_stack(rows))
        self.samples += given.size

    def table(self) -> pd.DataFrame:
        """See `clipping`."""
        quantities = self.moments.columns()
        rows = []
        for number, skip in enumerate(self.skips):
            activation, first = self.activation[skip.id], skip.id
            while (before := self.before[first]) is not None:
                first = before
            facts = [skip.id, self.program.by_name[skip.merge].index, self.samples]
            rows.append([*facts, activation and activation.target, first, *quantities[number]])
        return pd.DataFrame(rows, columns=COLUMNS)


class _ClippedMerge:
    """One merge and the activation after it, during one batch.

    Its three hooks run in this order: `on_operands` keeps the shortcuts' values, `on_merge` the merged value, and
    `on_activation` compares them with the activated value and lets go of them.

    Attributes:
        removed: by skip, the shares (samples, 2) that the activation removes; see `_removed`.
        magnitudes: numbers that are finite exactly when all values are.
    """

    def __init__(self, program: Program, merge: Merge, activation: Op, skips: list[Skip], size: int) -> None:
        self.program, self.merge, self.activation, self.skips, self.size = program, merge, activation, skips, size
        self.removed: dict[str, Tensor] = {}
        self.magnitudes: list[Tensor] = []
        self._shortcuts: dict[str, Tensor] = {}
        self._merged: Tensor | None = None
        self._defined = op_info(activation.target).zero_at_zero and self._in_order()

    def edges(self) -> dict[Edge, Patch]:
        """Patches that change nothing and call the first two hooks."""
        into_activation = (self.activation.name, self.program.ops[self.activation.inputs[0]].name)
        return {**collect_operands(self.program, self.merge, self.on_operands), into_activation: self.on_merge}

    def on_operands(self, operands: list[Tensor]) -> None:
        """The operands of the merge, in order, in its shape."""
        for skip in self.skips:
            own = [operands[position] for position in shortcut_positions(self.program, self.merge, skip)]
            self._shortcuts[skip.id] = own[0] if len(own) == 1 else torch.stack(own).sum(0)

    def on_merge(self, value: Tensor) -> Tensor:
        """The merged value on its way into the activation, perhaps through views."""
        self._merged = value.detach()
        return value

    def on_activation(self, value: Tensor) -> None:
        """The activated value."""
        assert self._merged is not None
        gate = _gate(self.activation, self._merged, value.detach())
        for skip in self.skips:
            pair = (self._shortcuts.pop(skip.id).reshape(gate.shape), gate)
            x, g = (by_sample(self.program, self.activation, t, self.size) for t in pair)
            undefined = x.new_full((len(x), 2), torch.nan, dtype=torch.double)
            self.removed[skip.id] = _removed(x, g) if self._defined else undefined
            self.magnitudes.append(norm(x).cpu() + norm(g).cpu())
        self._merged = None

    def _in_order(self) -> bool:
        """Whether the ops between merge and activation leave entries in their order."""
        op = self.program.ops[self.activation.inputs[0]]
        while op.name != self.merge.op.name:
            if not op_info(op.target).reshape:
                return False
            op = self.program.ops[op.inputs[0]]
        return True


def _before(program: Program, skips: list[Skip]) -> dict[str, str | None]:
    """For each skip the one whose (activated) merge its shortcut starts from."""
    ends: dict[str, str] = {}
    for skip in skips:
        ends.setdefault(output_of(program, skip).name, skip.id)
    found: dict[str, str | None] = {}
    for skip in skips:
        op = program.by_name[skip.fork]
        while op.name not in ends and op.kind == "view" and len(op.inputs) == 1:
            op = program.ops[op.inputs[0]]
        found[skip.id] = ends.get(op.name)
    return found


def _gate(activation: Op, merged: Tensor, activated: Tensor) -> Tensor:
    """a(m) / m, and 0 where m is 0."""
    if activation.target == "relu":
        return activated.sign()
    return torch.where(merged == 0, 0, activated / merged)


def _removed(x: Tensor, gate: Tensor) -> Tensor:
    """(samples, 2): share of the entries and of the energy; NaN for a sample that is zero everywhere."""
    present = x.sign().abs_()  # as floats: comparing and counting booleans takes several times as long
    entries = (present * gate.abs().clamp_(max=1)).sum(1).double() / present.sum(1)
    energy = (norm(x * gate, dim=1) / norm(x, dim=1)).square()
    return torch.stack([1 - entries, 1 - energy], dim=1)


def sentences(table: pd.DataFrame) -> Iterator[str]:
    """What a merge removes, and what is left along the longest route."""
    active = table[table["activation"].notna()]
    if active.empty:
        yield f"No activation follows any of {counted(table, 'merge')}: nothing on the shortcuts' route is clipped."
        return
    energy = finite_in(active, "energy")
    if len(energy):
        yield (
            f"The activation after a merge removes {energy['energy'].median():.0%} of the energy that the shortcut "
            f"brings in the median of {counted(energy, 'merge')}: {extremes(energy, 'energy', '.0%')}."
        )
    ends = finite_in(active, "route_kept").sort_values("order").groupby("route", sort=False).tail(1)
    if len(ends):
        longest = row_at(ends, ends["route"].map(active["route"].value_counts()).argmax())
        merges = int((active["route"] == longest["route"]).sum())
        left = interval_of(longest, "route_kept")
        yield (
            f"Along the longest route, {plural(merges, 'merge')} up to `{longest['id']}`, "
            f"{longest['route_kept']:.2g} of the energy would be left{within(left)}."
        )


MEASURE = Measure(
    function=clipping,
    run=lambda inputs: clipping(inputs.program, inputs.skips, inputs.batches),
    sentences=sentences,
    columns=(
        SKIP_ID,
        ORDER,
        SAMPLES,
        Column("then", "activation", "text", doc="activation after the merge; None without one"),
        Column("", "route", doc="id of the first skip of the route that this merge lies on"),
        Column("entries removed", "entries", "share", doc="share of the shortcut's entries that are removed"),
        Column("energy removed", "energy", "share", doc="share of the shortcut's energy that is removed"),
        Column("left of route", "route_kept", doc="share of the energy that is left of a signal on the route so far"),
    ),
    title="Clipping",
    reading="Share of the shortcut's energy that the activation after each merge removes, and under it what would be "
    "left of a signal on the route so far. Lines: ± one standard deviation over samples.",
    chart="clipping",
    observer=Clipping,
    default=True,
)
