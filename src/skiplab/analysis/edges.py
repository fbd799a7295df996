"""The edges of a skip: where its values enter the merge, and where they leave the fork.

An edge (reader, operand) is one operand as one op reads it; a change there affects this reader only.
"""

from collections.abc import Iterable

from skiplab.analysis.merges import Merge, merge_at
from skiplab.analysis.reachability import between
from skiplab.analysis.skips import Skip
from skiplab.graph.interpreter import Edge
from skiplab.graph.program import Program


def shortcut_edges(program: Program, skip: Skip) -> tuple[Edge, ...]:
    """The edges into the merge that carry the shortcut's value."""
    return tuple(edge for edge in into(program, merge_at(program, skip.merge)) if edge[1] == skip.operand)


def branch_edges(program: Program, skip: Skip) -> tuple[Edge, ...]:
    """The edges into the merge that carry the branch's values."""
    return tuple(edge for edge in into(program, merge_at(program, skip.merge)) if edge[1] in skip.branch)


def start(program: Program, edges: Iterable[Edge]) -> int:
    """Index of the first op that reads one of the edges."""
    return min(program.by_name[reader].index for reader, _ in edges)


def fork_edges(program: Program, skip: Skip) -> tuple[tuple[Edge, ...], tuple[Edge, ...]]:
    """The edges out of the fork that lead into the shortcut, and those that lead into the branch.

    Values that a gate on the shortcut is computed from belong to the branch. A reader on both belongs to the shortcut.
    """
    light = _readers(program, skip, (skip.operand,), skip.gates)
    heavy = _readers(program, skip, (*skip.branch, *skip.gates), ())
    shortcut, branch = (
        tuple((program.ops[reader].name, skip.fork) for reader in sorted(each)) for each in (light, heavy - light)
    )
    return shortcut, branch


def _readers(program: Program, skip: Skip, ends: tuple[str, ...], without: tuple[str, ...]) -> set[int]:
    """Readers of the fork from which a path leads through one of the ends to the merge; none crosses `without`."""
    fork = program.by_name[skip.fork].index
    indices, excluded = ([program.by_name[name].index for name in names] for names in (ends, without))
    found = between(program, fork, indices, excluded).intersection(program.users[fork])
    if skip.fork in ends:
        edges = into(program, merge_at(program, skip.merge))
        found |= {program.by_name[reader].index for reader, operand in edges if operand == skip.fork}
    return found


def into(program: Program, merge: Merge) -> list[Edge]:
    """The edges into a merge, one per operand; every factor and sign is an operator of its own before them."""
    return [
        (program.ops[reader].name, program.ops[operand].name)
        for operand, reader in zip(merge.operands, merge.readers, strict=True)
    ]
