"""The layers, merges and inputs that each value is computed from.

Two values are different signals when these differ. The halves of a rotary embedding, or x and x³ in GELU's cubic, come
from one value: no signals meet where they are combined.
"""

from collections.abc import Iterable, Sequence

from skiplab.graph.ops import WEIGHT_LAYERS, Op


def origins(ops: Sequence[Op]) -> list[frozenset[int]]:
    """For each op, the weight layers, merges of several signals and inputs that its value is computed from directly."""
    found: list[frozenset[int]] = []
    for op in ops:
        below = {found[i] for i in op.inputs}
        starts = op.kind in (*WEIGHT_LAYERS, "input") or (op.kind == "merge" and len(below) > 1)
        if starts or not below:
            found.append(frozenset({op.index}))
        elif len(below) == 1:
            found.append(below.pop())  # shared, so that a long chain costs nothing
        else:
            found.append(frozenset().union(*below))
    return found


def group_by_origin(origins: list[frozenset[int]], operands: Iterable[int]) -> list[list[int]]:
    """The operands of a merge in groups that are computed from the same signals."""
    groups: dict[frozenset[int], list[int]] = {}
    for operand in operands:
        groups.setdefault(origins[operand], []).append(operand)
    return list(groups.values())
