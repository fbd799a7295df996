"""Which skip lies on the branch of which: one sweep over the merges, with the skips in hand that span the place."""

import bisect
from collections.abc import Sequence
from dataclasses import dataclass

from skiplab.analysis.reachability import Reach


@dataclass(frozen=True, slots=True, eq=False)
class Span:
    """A skip as a region of the graph.

    Attributes:
        fork, merge: indices of its ops.
        at: the sum at which its shortcut arrives, where the merge is a chain of sums; else the merge.
        position: which of the merge's operands ends its shortcut.
        reach: the ways to the merge's operands.
        comes: for each op, the forks of this merge's skips from which it comes, as bits.
        bit: which of these bits stands for this fork.
    """

    fork: int
    merge: int
    at: int
    position: int
    reach: Reach
    comes: dict[int, int]
    bit: int

    def holds(self, index: int) -> bool:
        """Whether an op lies on the branch."""
        return bool(self.comes.get(index, 0) >> self.bit & 1) and self.reach.leads_past(index, self.position)


def parents(spans: Sequence[Span]) -> list[int | None]:
    """For each skip, given in order of the merges, the innermost one on whose branch both its ends lie.

    The fork may also be the outer one's own.
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
            break  # whatever comes later ends later, and begins no later than this fork
        size = outer.merge - outer.fork
        if outer.fork <= span.fork and (least is None or size < least) and _is_around(outer, span):
            best, least = number, size
    return best


def _is_around(outer: Span, span: Span) -> bool:
    if outer.merge == span.merge:
        return outer.at > span.at and outer.holds(span.fork)
    return outer.holds(span.merge) and (outer.fork == span.fork or outer.holds(span.fork))
