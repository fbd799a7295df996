"""Which operands of a merge a value reaches, and through how many weight layers: one backward and one forward pass.

Sets of operands and of forks are bits of an integer, so that a set for each op costs one machine operation, and a merge
of a hundred operands (a dense block's) costs as many passes as one of two.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from skiplab.graph.ops import WEIGHT_LAYERS, Op
from skiplab.graph.program import Program


@dataclass(slots=True)
class PathSummary:
    """The paths from one op to the operands of a merge.

    Attributes:
        through: at k, bits of the operands that are reached through at least k weight layers; k = 0, 1, 2.
        most: the most weight layers on a path to any operand; -1 where there is no path.
        heaviest_operand: position of one operand that is reached through that many.
        second: the most weight layers on a path to any other operand; -1 where there is none.
    """

    through: tuple[int, int, int]
    most: int
    heaviest_operand: int
    second: int


class MergeReachability:
    """The paths from each op to the operands of one merge.

    Args:
        program: the program of the merge.
        operands: index of the op at the end of each operand.
        least: lowest index of an op whose paths are needed.
        gate: gives the gate of a product, which no path enters. By default paths enter gates.
        without: ops that no path crosses.
    """

    def __init__(
        self,
        program: Program,
        operands: Sequence[int],
        least: int,
        *,
        gate: Callable[[Op], int | None] | None = None,
        without: frozenset[int] = frozenset(),
    ) -> None:
        self.program = program
        paths: dict[int, PathSummary] = {}
        for position, index in enumerate(operands):
            _join(paths, index, PathSummary((1 << position, 0, 0), 0, position, -1))
        for index in range(max(operands, default=-1), least, -1):
            if index in paths and index not in without:
                op = program.ops[index]
                after = _with_weight_layer(paths[index]) if op.kind in WEIGHT_LAYERS else paths[index]
                for operand in set(op.inputs) - {gate(op) if gate else None}:
                    _join(paths, operand, after)
        self.paths = paths

    def most_weights(self, index: int, excluding: int | None = None) -> int:
        """Most weight layers on a path from an op to any operand but the excluded one; -1 where there is none."""
        paths = self.paths.get(index)
        if paths is None:
            return -1
        return paths.second if paths.heaviest_operand == excluding else paths.most

    def operands_beyond(self, index: int, weights: int, excluding: int) -> tuple[int, ...]:
        """Positions, except the excluded one, that an op reaches through more than `weights` (0 or 1) weight layers."""
        bits = self.paths[index].through[weights + 1] & ~(1 << excluding)
        return tuple(position for position in range(bits.bit_length()) if bits >> position & 1)

    def reaches_other_operand(self, index: int, position: int) -> bool:
        """Whether a path leads from an op to any operand but the one at `position`."""
        paths = self.paths.get(index)
        return paths is not None and bool(paths.through[0] & ~(1 << position))

    def fork_bitmask(self, forks: Sequence[int]) -> dict[int, int]:
        """For each op between the forks and the merge, bits of the forks that it depends on."""
        own = {fork: 1 << place for place, fork in enumerate(forks)}
        fork_bits: dict[int, int] = {}
        for index in sorted(i for i in self.paths if i >= min(forks)):
            bits = 0
            for operand in self.program.ops[index].inputs:
                bits |= fork_bits.get(operand, 0) | own.get(operand, 0)
            if bits:
                fork_bits[index] = bits
        return fork_bits


def _with_weight_layer(paths: PathSummary) -> PathSummary:
    any_path, one, _ = paths.through
    second = paths.second + 1 if paths.second >= 0 else -1
    return PathSummary((any_path, any_path, one), paths.most + 1, paths.heaviest_operand, second)


def _join(paths: dict[int, PathSummary], index: int, new: PathSummary) -> None:
    old = paths.get(index)
    if old is None:
        paths[index] = new
        return
    through = (old.through[0] | new.through[0], old.through[1] | new.through[1], old.through[2] | new.through[2])
    best, other = (old, new) if old.most >= new.most else (new, old)
    # In each summary, `second` belongs to another operand than `most`, and is never larger.
    rest = max(best.second, other.second if other.heaviest_operand == best.heaviest_operand else other.most)
    paths[index] = PathSummary(through, best.most, best.heaviest_operand, rest)


def between(program: Program, fork: int, ends: Iterable[int], without: Collection[int] = ()) -> set[int]:
    """The ops on paths from a fork to any of the ends, without the fork; no path crosses an op in `without`."""
    ends = [end for end in ends if end > fork]
    if not ends:
        return set()
    after = {fork}
    for index in range(fork + 1, max(ends) + 1):
        if index not in without and any(operand in after for operand in program.ops[index].inputs):
            after.add(index)
    region = {end for end in ends if end in after}
    for index in range(max(ends), fork, -1):
        if index in region:
            region.update(i for i in program.ops[index].inputs if i in after and i != fork)
    return region


def ops_on_every_path(program: Program, region: Collection[int]) -> Iterator[int]:
    """The ops of a region that every path through the region crosses, in order of execution.

    Ops are in order of execution, so a path avoids an op exactly if an edge of the region leads from before it to after
    it.
    """
    farthest = -1  # the last op that reads a value made so far
    for index in sorted(region):
        if farthest <= index:
            yield index
        farthest = max([farthest, *(user for user in program.users[index] if user in region)])
