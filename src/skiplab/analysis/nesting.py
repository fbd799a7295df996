"""Nesting of skips: one sweep over the merges, which keeps the skips that span the current merge."""

import bisect
from collections.abc import Sequence
from dataclasses import dataclass

from skiplab.analysis.reachability import MergeReachability


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Span:
    """A skip as a region of the graph.

    Attributes:
        fork, merge: indices of its ops.
        arrival: index of the addition that reads the shortcut, where the merge is a chain of additions; else the merge.
        position: which of the merge's operands ends its shortcut.
        reachability: the paths to the merge's operands.
        fork_bits: for each op, bits of the forks of this merge's skips that it depends on.
        bit: which of these bits is this fork's.
    """

    fork: int
    merge: int
    arrival: int
    position: int
    reachability: MergeReachability
    fork_bits: dict[int, int]
    bit: int

    def holds(self, index: int) -> bool:
        """Whether an op lies on the branch."""
        depends_on_fork = bool(self.fork_bits.get(index, 0) >> self.bit & 1)
        return depends_on_fork and self.reachability.reaches_other_operand(index, self.position)


def parents(spans: Sequence[Span]) -> list[int | None]:
    """For each skip, the innermost skip whose branch holds both its fork and its merge.

    The two skips may share a fork. `spans` are in order of their merges; the result has places in `spans`.
    """
    starts = sorted(range(len(spans)), key=lambda number: spans[number].fork)
    active: list[int] = []  # begun and not yet ended, in order of the merges
    begun = 0
    found = []
    for span in spans:
        while begun < len(starts) and spans[starts[begun]].fork <= span.fork:
            bisect.insort(active, starts[begun])
            begun += 1
        ended = bisect.bisect_left(active, span.merge, key=lambda other: spans[other].merge)
        del active[:ended]
        found.append(_innermost(spans, active, span))
    return found


def _innermost(spans: Sequence[Span], active: list[int], span: Span) -> int | None:
    best, least = None, None
    for number in active:
        outer = spans[number]
        if least is not None and outer.merge - span.fork >= least:
            break  # all further ones end later, and begin no later than this fork
        size = outer.merge - outer.fork
        if outer.fork <= span.fork and (least is None or size < least) and _is_around(outer, span):
            best, least = number, size
    return best


def _is_around(outer: Span, span: Span) -> bool:
    if outer.merge == span.merge:
        return outer.arrival > span.arrival and outer.holds(span.fork)
    return outer.holds(span.merge) and (outer.fork == span.fork or outer.holds(span.fork))
