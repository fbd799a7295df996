"""What leads to the operands of one merge, and through how many weight layers: one pass back, one forth.

Operands are bits of an integer, and so are forks: what takes a set for each op takes one machine operation, and
a merge of a hundred operands (a dense block's) costs no more passes than one of two.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from skiplab.analysis.backtrace import gate
from skiplab.graph.ops import WEIGHT_LAYERS
from skiplab.graph.program import Program


@dataclass(slots=True)
class _Ways:
    """From one op to the operands of a merge.

    Attributes:
        through: at k, the operands that are reached through at least k weight layers, as bits; k = 0, 1, 2.
        most: the most weight layers on a way to any operand; -1 where there is none.
        by: one operand that is reached through that many.
        second: the most on a way to any other operand.
    """

    through: tuple[int, int, int]
    most: int
    by: int
    second: int


class Reach:
    """The ways to the operands of one merge.

    Args:
        program: where they lie.
        operands: the op at the end of each.
        least: index of the op behind which nothing is asked.
        gates: whether a way may lead through a gate, or only through what gates let pass.
        without: ops through which no way leads.
    """

    def __init__(
        self,
        program: Program,
        operands: Sequence[int],
        least: int,
        *,
        gates: bool = True,
        without: frozenset[int] = frozenset(),
    ) -> None:
        self.program = program
        ways: dict[int, _Ways] = {}
        for bit, index in enumerate(operands):
            _join(ways, index, _Ways((1 << bit, 0, 0), 0, bit, -1))
        for index in range(max(operands, default=-1), least, -1):
            if index in ways and index not in without:
                op = program.ops[index]
                after = _weighted(ways[index]) if op.kind in WEIGHT_LAYERS else ways[index]
                by = None if gates else gate(program, op)
                for operand in set(op.inputs) - {by}:
                    _join(ways, operand, after)
        self.ways = ways

    def heaviest(self, index: int, without: int | None = None) -> int:
        """Most weight layers on a way from an op to any operand (but one); -1 when there is none."""
        ways = self.ways.get(index)
        if ways is None:
            return -1
        return ways.second if ways.by == without else ways.most

    def heavier(self, index: int, than: int, without: int) -> list[int]:
        """The operands, but one, that are reached from an op through more than `than` weight layers (0 or 1)."""
        bits = self.ways[index].through[than + 1] & ~(1 << without)
        return [bit for bit in range(bits.bit_length()) if bits >> bit & 1]

    def leads_past(self, index: int, without: int) -> bool:
        """Whether an op leads to any operand but one."""
        ways = self.ways.get(index)
        return ways is not None and bool(ways.through[0] & ~(1 << without))

    def descent(self, forks: Sequence[int]) -> dict[int, int]:
        """For each op on a way from any of the forks to the merge: the forks from which it comes, as bits."""
        bits = {fork: 1 << place for place, fork in enumerate(forks)}
        comes: dict[int, int] = {}
        for index in sorted(i for i in self.ways if i >= min(forks)):
            above = 0
            for operand in self.program.ops[index].inputs:
                above |= comes.get(operand, 0) | bits.get(operand, 0)
            if above:
                comes[index] = above
        return comes


def _weighted(ways: _Ways) -> _Ways:
    any_way, one, _ = ways.through
    return _Ways((any_way, any_way, one), ways.most + 1, ways.by, ways.second + 1 if ways.second >= 0 else -1)


def _join(ways: dict[int, _Ways], index: int, new: _Ways) -> None:
    old = ways.get(index)
    if old is None:
        ways[index] = new
        return
    through = (old.through[0] | new.through[0], old.through[1] | new.through[1], old.through[2] | new.through[2])
    best, other = (old, new) if old.most >= new.most else (new, old)
    # what is second in one is another operand than its first, and never more than that
    rest = max(best.second, other.second if other.by == best.by else other.most)
    ways[index] = _Ways(through, best.most, best.by, rest)


def between(program: Program, fork: int, ends: Iterable[int]) -> set[int]:
    """The ops on ways from a fork to the ends, without the fork."""
    ends = [end for end in ends if end > fork]
    if not ends:
        return set()
    after = {fork}
    for index in range(fork + 1, max(ends) + 1):
        if any(operand in after for operand in program.ops[index].inputs):
            after.add(index)
    region = {end for end in ends if end in after}
    for index in range(max(ends), fork, -1):
        if index in region:
            region.update(i for i in program.ops[index].inputs if i in after and i != fork)
    return region
