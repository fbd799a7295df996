"""Match the operands of merges with the definition of a skip connection (DESIGN §2).

Example: x + F(x) with a pooled shortcut and F(x) = conv₂(relu(conv₁(x))).

    0 input       x
    1 weight      conv₁(0)
    2 activation  relu(1)
    3 weight      conv₂(2)
    4 resample    avg_pool(0)
    5 merge       add(3, 4)

Operand 3 traces back to 3 and, through conv₂, to 2, where the activation ends the trace. Each of the two has a single
reader, so no path forks there. Operand 4 traces back to 4 and, through the pool, to 0. Value 0 has two readers and
reaches the other operand through two weight layers, and its shortcut has none: the match has fork 0, shortcut
`resample`, branch operand 3 and two weight layers.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from skiplab.analysis.backtrace import ShortcutStep, ShortcutTraces
from skiplab.analysis.merges import Merge
from skiplab.analysis.reachability import MergeReachability
from skiplab.graph.program import Op
from skiplab.graph.slices import Position, elsewhere


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ShortcutMatch:
    """An operand of a merge that ends a shortcut.

    Attributes:
        merge: the merge.
        position: which of the merge's operands ends the shortcut.
        step: the fork, and what the shortcut from it consists of.
        shortcut_ops: the ops on the shortcut, in reverse order, without the fork.
        branch: positions of the operands that depend on the fork through more weight layers than the shortcut has. At
            a scan's step no operand does: then these are all other operands.
        weights: the most weight layers on a path from the fork to one of them; 0 at a scan's step.
        reachability: the paths to the merge's operands, from the fork on.
    """

    merge: Merge
    position: int
    step: ShortcutStep
    shortcut_ops: tuple[Op, ...]
    branch: tuple[int, ...]
    weights: int
    reachability: MergeReachability


def match_shortcuts(traces: ShortcutTraces, merges: Sequence[Merge]) -> list[tuple[ShortcutMatch, ...]]:
    """For each merge, the operands that end a shortcut, in their order.

    A search goes back from its merge to the earliest value on the traces of the operands, so the cost is linear in the
    size of the graph for any bounded depth of nesting.
    """
    return [tuple(_Matcher(traces, merge).matches()) for merge in merges]


class _Matcher:
    """The operands of one merge, and the paths to them.

    Args:
        traces: those of the merge's program.
        merge: `stack` has no matches: it puts values side by side in a new dimension, as the steps of a sequence.
    """

    def __init__(self, traces: ShortcutTraces, merge: Merge) -> None:
        self.program, self.merge = traces.program, merge
        self.gate = traces.gate
        self.traces = [
            traces.trace(operand) if merge.op.target != "stack" and merge.takes_whole(self.program, operand) else ()
            for operand in merge.operands
        ]
        self.least = min((step.value for trace in self.traces for step in trace), default=0)
        self._reachability: dict[tuple[bool, tuple[Position, ...]], MergeReachability] = {}

    def matches(self) -> Iterator[ShortcutMatch]:
        """At most one for each operand: the shortest shortcut that ends there. A value that is added twice is one."""
        for position, operand in enumerate(self.merge.operands):
            if operand not in self.merge.operands[:position]:
                found = (self.match_operand(position, step) for step in self.traces[position])
                match = next((each for each in found if each is not None), None) or self.match_scan(position)
                if match is not None:
                    yield match

    def match_operand(self, position: int, step: ShortcutStep) -> ShortcutMatch | None:
        """The shortcut from a traced value to the operand, if another operand makes a branch of it."""
        if len(self.program.users[step.value]) < 2:
            return None  # all paths go through its only reader
        reachability = self.reachability_for(step)
        weights = reachability.most_weights(step.value, position)
        if weights <= step.weights:
            return None
        return self._match(position, step, reachability.operands_beyond(step.value, step.weights, position), weights)

    def match_scan(self, position: int) -> ShortcutMatch | None:
        """The shortcut of a scan's step, hₜ = aₜ·hₜ₋₁ + bₜ, whose branch does not start from the fork."""
        step = next((step for step in self.traces[position] if self._is_scan(step)), None)
        if step is None:
            return None
        return self._match(position, step, tuple(i for i in range(len(self.merge.operands)) if i != position), 0)

    def reachability_for(self, step: ShortcutStep | None = None) -> MergeReachability:
        """The paths that can make a branch for a shortcut; all paths for a shortcut without gates and positions.

        Next to a gated shortcut, paths into a gate do not count (selective kernels). Next to a shortcut that takes one
        position out of a value, paths from other positions do not count (the steps of a recurrent network).
        """
        gated, positions = (bool(step.gates), step.positions) if step is not None else (False, ())
        if (gated, positions) not in self._reachability:
            without = frozenset(index for taken in positions for index in elsewhere(self.program, taken))
            self._reachability[gated, positions] = MergeReachability(
                self.program,
                self.merge.operands,
                self.least,
                gate=self.gate if gated else None,
                without=without,
            )
        return self._reachability[gated, positions]

    def _match(self, position: int, step: ShortcutStep, branch: tuple[int, ...], weights: int) -> ShortcutMatch:
        trace = self.traces[position]
        return ShortcutMatch(
            merge=self.merge,
            position=position,
            step=step,
            shortcut_ops=tuple(self.program.ops[each.value] for each in trace[: trace.index(step)]),
            branch=branch,
            weights=weights,
            reachability=self.reachability_for(),
        )

    def _is_scan(self, step: ShortcutStep) -> bool:
        """Whether only gates lie between the merge and the value that the same line computes in the step before."""
        before, op = self.program.ops[step.value], self.merge.op
        line = (op.target, op.source, op.module)
        same = before.source is not None and (before.target, before.source, before.module) == line
        return same and bool(step.gates) and not step.weights
