"""Lesions: skips deleted alone, in pairs and in groups, as patches on the edges where the network changes."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from skiplab.analysis.edges import branch_edges, shortcut_edges, start
from skiplab.analysis.skips import Skip, Skips
from skiplab.errors import UsageError
from skiplab.graph.interpreter import Edge, Patch
from skiplab.graph.program import Program
from skiplab.measure.lesions.replacements import Replacement
from skiplab.measure.lesions.resumable_pass import Part

Patches = Mapping[Edge, Patch]
Groups = int | Literal["pairs"] | Sequence[Sequence[str]]


@dataclass(frozen=True, eq=False)
class Lesion:
    """One changed network.

    Attributes:
        id: ids of what is changed.
        order: index of the first op among them.
        kind: how it is changed.
        k: how many are changed together.
        start: the first node whose value may differ from the whole network's.
        patches: the changes to the whole network, for some samples.
    """

    id: str
    order: int
    kind: str
    k: int
    start: str
    patches: Callable[[Part], Patches]


def edges_of(program: Program, skip: Skip, kind: str) -> tuple[Edge, ...]:
    """The edges into the merge that a lesion of this kind changes."""
    return shortcut_edges(program, skip) if kind.startswith("shortcut") else branch_edges(program, skip)


def grouped(skips: Skips, groups: Groups) -> list[tuple[Skip, ...]]:
    """Every `groups` consecutive skips in the order of their merges, or every pair, or the groups with these ids."""
    if groups == "pairs":
        return list(itertools.combinations(skips, 2))
    if isinstance(groups, Sequence):
        return [_named(skips, ids) for ids in groups]
    if not isinstance(groups, int) or groups < 1 or (skips and groups > len(skips)):
        raise UsageError(f"groups={groups!r}: give 'pairs', or a number from 1 to {len(skips)}, that of the skips")
    return [tuple(skips[i : i + groups]) for i in range(len(skips) - groups + 1)]


def _named(skips: Skips, ids: Sequence[str]) -> tuple[Skip, ...]:
    by_id = {skip.id: skip for skip in skips}
    if isinstance(ids, str) or not ids or not set(ids) <= by_id.keys():
        raise UsageError(f"a group of skips {ids!r}: give a list of ids, each of one of the skips that are measured")
    return tuple(by_id[each] for each in ids)


def deletions(
    program: Program, groups: Sequence[tuple[Skip, ...]], replacements: Mapping[str, Replacement]
) -> list[Lesion]:
    """One lesion for each kind and each group of skips."""
    return [_deletion(program, group, kind, new) for kind, new in replacements.items() for group in groups]


def _deletion(program: Program, group: tuple[Skip, ...], kind: str, new: Replacement) -> Lesion:
    edges = tuple(dict.fromkeys(edge for skip in group for edge in edges_of(program, skip, kind)))
    return Lesion(
        id=" + ".join(skip.id for skip in group),
        order=min(program.by_name[skip.merge].index for skip in group),
        kind=kind,
        k=len(group),
        start=program.ops[start(program, edges)].name,
        patches=lambda part: {edge: new(edge, part) for edge in edges},
    )
