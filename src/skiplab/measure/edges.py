"""The edges of a skip: where its values enter the merge, and where they leave the fork.

An edge (reader, operand) is one operand as one op reads it; what is changed or watched there is changed for that
reader alone.
"""

from collections.abc import Iterable

from skiplab.execute import Edge
from skiplab.merges import merge_at
from skiplab.program import Program
from skiplab.reach import between
from skiplab.skips import Skip


def shortcut_edges(program: Program, skip: Skip) -> tuple[Edge, ...]:
    """The edges into the merge on which the shortcut's value arrives."""
    return tuple(edge for edge in _into(program, skip) if edge[1] == skip.operand)


def branch_edges(program: Program, skip: Skip) -> tuple[Edge, ...]:
    """The edges into the merge on which the branch's values arrive."""
    return tuple(edge for edge in _into(program, skip) if edge[1] in skip.branch)


def other_edges(program: Program, skip: Skip) -> tuple[Edge, ...]:
    """The edges into the merge on which anything but the shortcut's value arrives."""
    return tuple(edge for edge in _into(program, skip) if edge[1] != skip.operand)


def start(program: Program, edges: Iterable[Edge]) -> int:
    """Index of the first op that reads one of them."""
    return min(program.by_name[reader].index for reader, _ in edges)


def fork_edges(program: Program, skip: Skip) -> tuple[tuple[Edge, ...], tuple[Edge, ...]]:
    """The edges out of the fork that lead into the shortcut, and those that lead into the branch.

    A reader that lies on both, such as a projection whose result also enters a gate, counts as shortcut.
    """
    fork = program.by_name[skip.fork]
    into = {end: _starts(program, skip, names) for end, names in (("s", (skip.operand,)), ("b", skip.branch))}
    readers = dict.fromkeys(program.users[fork.index])
    light = [r for r in readers if r in into["s"]]
    heavy = [r for r in readers if r in into["b"] and r not in into["s"]]
    shortcut, branch = (tuple((program.ops[r].name, fork.name) for r in each) for each in (light, heavy))
    return shortcut, branch


def _starts(program: Program, skip: Skip, operands: tuple[str, ...]) -> set[int]:
    """Readers of the fork from which a way leads to the merge by one of these operands."""
    fork, merge = program.by_name[skip.fork].index, merge_at(program, skip.merge)
    ends = [program.by_name[name].index for name in operands]
    found = set(between(program, fork, ends))
    if fork in ends:  # the fork itself is joined
        found |= {reader for operand, reader in zip(merge.operands, merge.readers, strict=True) if operand == fork}
    return found


def _into(program: Program, skip: Skip) -> list[Edge]:
    merge = merge_at(program, skip.merge)
    return [
        (program.ops[reader].name, program.ops[operand].name)
        for operand, reader in zip(merge.operands, merge.readers, strict=True)
    ]
