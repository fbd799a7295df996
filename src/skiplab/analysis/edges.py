"""The edges of a skip: where its values enter the merge, and where they leave the fork.

An edge (reader, operand) is one operand as one op reads it; what is changed or watched there is changed for that
reader alone.
"""

from collections.abc import Iterable

from skiplab.analysis.merges import Merge, merge_at
from skiplab.analysis.skips import Skip
from skiplab.graph.interpreter import Edge
from skiplab.graph.program import Program


def shortcut_edges(program: Program, skip: Skip) -> tuple[Edge, ...]:
    """The edges into the merge on which the shortcut's value arrives."""
    return tuple(edge for edge in into(program, merge_at(program, skip.merge)) if edge[1] == skip.operand)


def branch_edges(program: Program, skip: Skip) -> tuple[Edge, ...]:
    """The edges into the merge on which the branch's values arrive."""
    return tuple(edge for edge in into(program, merge_at(program, skip.merge)) if edge[1] in skip.branch)


def other_edges(program: Program, skip: Skip) -> tuple[Edge, ...]:
    """The edges into the merge on which anything but the shortcut's value arrives."""
    return tuple(edge for edge in into(program, merge_at(program, skip.merge)) if edge[1] != skip.operand)


def start(program: Program, edges: Iterable[Edge]) -> int:
    """Index of the first op that reads one of them."""
    return min(program.by_name[reader].index for reader, _ in edges)


def fork_edges(program: Program, skip: Skip) -> tuple[tuple[Edge, ...], tuple[Edge, ...]]:
    """The edges out of the fork that lead into the shortcut, and those that lead into the branch.

    What a gate on the shortcut is made of counts to the branch. A reader that lies on both counts as shortcut.
    """
    light = _readers(program, skip, (skip.operand,), frozenset(skip.gates))
    heavy = _readers(program, skip, (*skip.branch, *skip.gates), frozenset())
    shortcut, branch = (
        tuple((program.ops[reader].name, skip.fork) for reader in sorted(each)) for each in (light, heavy - light)
    )
    return shortcut, branch


def _readers(program: Program, skip: Skip, ends: tuple[str, ...], without: frozenset[str]) -> set[int]:
    """Readers of the fork from which a way leads to the merge through one of the ends."""
    fork = program.by_name[skip.fork].index
    pending = [program.by_name[end].index for end in ends]
    edges = into(program, merge_at(program, skip.merge)) if skip.fork in ends else ()
    found = {program.by_name[reader].index for reader, operand in edges if operand == skip.fork}
    seen: set[int] = set()
    while pending:
        op = program.ops[pending.pop()]
        if op.index > fork and op.index not in seen and op.name not in without:
            seen.add(op.index)
            pending += op.inputs
            if fork in op.inputs:
                found.add(op.index)
    return found


def into(program: Program, merge: Merge) -> list[Edge]:
    """The edges into a merge, one an operand; capturing has made every factor and sign an operator before them."""
    return [
        (program.ops[reader].name, program.ops[operand].name)
        for operand, reader in zip(merge.operands, merge.readers, strict=True)
    ]
