"""Paths through a program, each one written out."""

from collections import Counter

from skiplab.program import Program

Ops = tuple[int, ...]


def every_way(program: Program, end: int) -> list[Ops]:
    """All ways from an input to an op, choosing among the operands wherever there are several."""
    op = program.ops[end]
    if not op.inputs:
        return [(end,)]
    return [(*way, end) for below in op.inputs for way in every_way(program, below)]


def histogram(program: Program, end: int, kinds: tuple[str, ...]) -> Counter[int]:
    """Number of paths by how many ops of these kinds lie on them.

    A path chooses one of the operands' ways wherever ways meet. Between two such places, or an input, several
    ways are one, for which the one with the fewest such ops stands.
    """
    return Counter(_totals(program, end, kinds))


def _totals(program: Program, end: int, kinds: tuple[str, ...]) -> list[int]:
    op = program.ops[end]
    own = int(op.kind in kinds)
    if not op.inputs:
        return [own]
    groups = _ways_in(program, end) if _meets(program, end) else [list(op.inputs)]
    totals = []
    for group in groups:
        least: dict[int, int] = {}
        for operand in group:
            for start, between in _back(program, operand, kinds):
                least[start] = min(between, least.get(start, between))
        totals += [
            own + between + total for start, between in least.items() for total in _totals(program, start, kinds)
        ]
    return totals


def _back(program: Program, index: int, kinds: tuple[str, ...]) -> list[tuple[int, int]]:
    """Where the ways to an op begin, with the ops of these kinds on each, the beginning's own left out."""
    op = program.ops[index]
    if not op.inputs or _meets(program, index):
        return [(index, 0)]
    own = int(op.kind in kinds)
    return [(start, own + between) for below in op.inputs for start, between in _back(program, below, kinds)]


def _meets(program: Program, index: int) -> bool:
    """Whether ways meet at a merge: its operands do not all come from the same weight layers and merges."""
    return program.ops[index].kind == "merge" and len(_ways_in(program, index)) > 1


def _ways_in(program: Program, index: int) -> list[list[int]]:
    """A merge's operands, those together that come from the same."""
    groups: dict[frozenset[int], list[int]] = {}
    for operand in program.ops[index].inputs:
        groups.setdefault(_origin(program, operand), []).append(operand)
    return list(groups.values())


def _origin(program: Program, index: int) -> frozenset[int]:
    """The nearest weight layers, inputs and meetings from which a value is computed."""
    op = program.ops[index]
    if not op.inputs or op.kind in ("weight", "recurrent") or _meets(program, index):
        return frozenset({index})
    return frozenset().union(*(_origin(program, below) for below in op.inputs))
