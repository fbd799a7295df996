"""Paths through a program, each one written out."""

from collections import Counter

from skiplab.analysis.path_census import COUNTED, NONLINEAR
from skiplab.graph.ops import WEIGHT_LAYERS
from skiplab.graph.program import Program

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
    ways are one, for which the one with the fewest nonlinearities stands; among equals, the one with the fewest
    weight layers, and then with the fewest of each kind, in order.
    """
    return Counter(sum(program.ops[i].kind in kinds for i in path) for path in _paths(program, end))


def _paths(program: Program, end: int) -> list[Ops]:
    op = program.ops[end]
    if not op.inputs:
        return [(end,)]
    groups = _ways_in(program, end) if _meets(program, end) else [list(op.inputs)]
    paths = []
    for group in groups:
        lightest: dict[int, Ops] = {}
        for operand in group:
            for start, between in _back(program, operand):
                ways = [between, *([lightest[start]] if start in lightest else [])]
                lightest[start] = min(ways, key=lambda way: _load(program, way))
        paths += [(*path, *between, end) for start, between in lightest.items() for path in _paths(program, start)]
    return paths


def _load(program: Program, way: Ops) -> Ops:
    groups = [NONLINEAR, WEIGHT_LAYERS, *((kind,) for kind in COUNTED)]
    return tuple(sum(program.ops[i].kind in kinds for i in way) for kinds in groups)


def _back(program: Program, index: int) -> list[tuple[int, Ops]]:
    """Where the ways to an op begin, with the ops on each, the beginning's own left out."""
    op = program.ops[index]
    if not op.inputs or _meets(program, index):
        return [(index, ())]
    return [(start, (*between, index)) for below in op.inputs for start, between in _back(program, below)]


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
