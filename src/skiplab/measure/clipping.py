"""What the activation behind each merge takes away from the signal that the shortcut carries."""

from collections.abc import Iterable

import pandas as pd
import torch
from torch import Tensor

from skiplab.analysis.edges import into
from skiplab.analysis.skips import Skip, Skips
from skiplab.data.bound_batches import Batch, BoundBatch
from skiplab.graph.ops import Op, is_concat, op_info
from skiplab.graph.program import Program
from skiplab.measure.batches import finite
from skiplab.measure.features import output_of
from skiplab.measure.merge_operands import by_sample, collect_operands, merges_of, pad_stack
from skiplab.measure.moments import Moments
from skiplab.measure.norms import norm
from skiplab.measure.observers import Gradients, Hooks, observe

QUANTITIES = ("entries", "energy", "route_kept")
COLUMNS = ["id", "order", "samples", "activation", "route", *(f"{q}{end}" for q in QUANTITIES for end in ("", "_std"))]


def clipping(program: Program, skips: Skips, batches: Iterable[Batch]) -> pd.DataFrame:
    """Share of the shortcut's signal that the activation behind each addition removes.

    With x what the shortcut brings, m the merge and a the activation, an entry passes with the factor
    g = a(m) / m, 0 or 1 for ReLU (0 where m is 0). Per sample, then mean and standard deviation over samples:

    - entries: 1 − Σ min(|g|, 1) / n over the n entries where x is not zero: for ReLU the share of them that it
      sets to zero.
    - energy: 1 − Σ (g x)² / Σ x².
    - route_kept: Π (1 − energy) over the merges that follow one another from the beginning of the route up to and
      including this one: the share of a signal's energy that is left if each merge removed it independently. It
      begins where a shortcut starts from anything but the (activated) merge before; `route` is the first skip's id.

    All are NaN for activations that are not 0 at 0, such as the sigmoid, which remove nothing in this sense, and
    where a permutation stands before the activation. Dimensionless, invariant to the scale of the signal. A merge
    without activation removes nothing, exactly (pre-activation networks, He et al. 2016, arXiv:1603.05027, §2).
    Concats are left out: no row.

    Returns:
        One row a skip whose merge adds: id, order, samples, activation (None without), route, and each quantity
        with its `_std`.
    """
    observer = Clipping(program, skips)
    observe(program, batches, [observer])
    return observer.table()


class Clipping:
    """`clipping` as one observer of a pass."""

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

    def look(self, given: BoundBatch) -> Hooks:
        removed: dict[str, Tensor] = {}  # skip -> shares by sample; NaN for one whose signal is zero
        signals: list[Tensor] = []
        looks = [self._at(name, removed, signals, given) for name in self.merges if self._clipped(name)]

        def keep(_: Gradients) -> None:
            if removed:
                finite(self.program, given, torch.stack(signals), "a value at a merge")
            self._keep(removed, given)

        edges = {edge: patch for look in looks for edge, patch in look.edges.items()}
        return Hooks(keep, edges, {name: see for look in looks for name, see in look.values.items()})

    def _clipped(self, merge: str) -> list[Skip]:
        return [skip for skip in self.skips if skip.merge == merge and self.activation[skip.id]]

    def _at(self, merge: str, removed: dict[str, Tensor], signals: list[Tensor], given: BoundBatch) -> Hooks:
        """A look at one merge and its activation, which puts into `removed` what that takes from each shortcut, and
        into `signals` numbers that are finite where all values are."""
        skips = self._clipped(merge)
        activation = self.activation[skips[0].id]
        assert activation is not None
        names = [operand for _, operand in into(self.program, self.merges[merge])]
        shortcuts: dict[str, Tensor] = {}
        merged: list[Tensor] = []

        def ready(operands: list[Tensor]) -> None:
            for skip in skips:
                own = [operands[i] for i, name in enumerate(names) if name == skip.operand]
                shortcuts[skip.id] = own[0] if len(own) == 1 else torch.stack(own).sum(0)

        def enters(value: Tensor) -> Tensor:
            merged.append(value.detach())
            return value

        told = op_info(activation.target).zero_at_zero and self._in_order(merge, activation)

        def leaves(value: Tensor) -> None:
            gate = _gate(activation, merged.pop(), value.detach())
            for skip in skips:
                pair = (shortcuts.pop(skip.id).reshape(gate.shape), gate)
                x, g = (by_sample(self.program, activation, t, given.size) for t in pair)
                removed[skip.id] = _removed(x, g) if told else x.new_full((len(x), 2), torch.nan, dtype=torch.double)
                signals.append(norm(x).cpu() + norm(g).cpu())

        edge = (activation.name, self.program.ops[activation.inputs[0]].name)
        edges = {**collect_operands(self.program, self.merges[merge], ready), edge: enters}
        return Hooks(lambda _: None, edges, {activation.name: leaves})

    def _in_order(self, merge: str, activation: Op) -> bool:
        """Whether what lies between a merge and its activation leaves entries in their order."""
        op = self.program.ops[activation.inputs[0]]
        while op.name != merge:
            if not op_info(op.target).reshape:
                return False
            op = self.program.ops[op.inputs[0]]
        return True

    def _keep(self, removed: dict[str, Tensor], given: BoundBatch) -> None:
        if not self.skips:
            return
        nothing = torch.zeros(next((len(t) for t in removed.values()), given.size), 2, dtype=torch.double)
        kept: dict[str, Tensor] = {}
        rows = []
        for skip in self.skips:  # in order of their merges, so that the one before is known
            share = removed.get(skip.id, nothing).cpu()
            before = self.before[skip.id]
            kept[skip.id] = (1 - share[:, 1]) * (1.0 if before is None else kept[before])
            rows.append(torch.cat([share, kept[skip.id][:, None]], dim=1))
        self.moments.add(pad_stack(rows))
        self.samples += given.size

    def table(self) -> pd.DataFrame:
        means, deviations = self.moments.means(), self.moments.deviations()
        rows = []
        for number, skip in enumerate(self.skips):
            activation, first = self.activation[skip.id], skip.id
            while (before := self.before[first]) is not None:
                first = before
            pairs = zip(means[number].tolist(), deviations[number].tolist(), strict=True)
            facts = [skip.id, self.program.by_name[skip.merge].index, self.samples]
            rows.append([*facts, activation and activation.target, first, *(n for pair in pairs for n in pair)])
        return pd.DataFrame(rows, columns=COLUMNS)


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
    """a(m) / m, and 0 where m is."""
    if activation.target == "relu":
        return activated.sign()
    return torch.where(merged == 0, 0, activated / merged)


def _removed(x: Tensor, gate: Tensor) -> Tensor:
    """(samples, 2): share of the entries and of the energy; NaN for a sample that is zero everywhere."""
    present = x.sign().abs_()  # of float: comparing and counting truth values takes several times as long
    entries = (present * gate.abs().clamp_(max=1)).sum(1).double() / present.sum(1)
    energy = (norm(x * gate, dim=1) / norm(x, dim=1)).square()
    return torch.stack([1 - entries, 1 - energy], dim=1)
