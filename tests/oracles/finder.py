"""Skip connections by the letter of their definition: every way from every value is written out and counted."""

from collections.abc import Iterator
from typing import NamedTuple

from skiplab.program import Op, Program

LINEAR = ("input", "weight", "merge", "view", "resample", "batch_norm", "expand")
CONCATENATIONS = ("cat", "concat", "stack", "hstack")


class Found(NamedTuple):
    """What a skip is, by positions in `Program.ops`."""

    combine: str
    shortcut: str
    fork: int
    merge: int
    operand: int
    shortcut_weight_layers: int
    branch: frozenset[int]
    weight_layers: int


def skips(program: Program) -> tuple[set[Found], set[int]]:
    """All skips, and the merges whose branches are foldable."""
    found, foldable = set(), set()
    for merge in program.ops:
        if merge.kind != "merge" or is_inner(program, merge) or is_attention_score(program, merge):
            continue
        for skip in skips_at(program, merge):
            if skip.combine == "add" and all(program.ops[i].kind in LINEAR for i in beside(program, skip)):
                foldable.add(merge.index)
            else:
                found.add(skip)
    return found, foldable


def skips_at(program: Program, merge: Op) -> Iterator[Found]:
    for operand in operands(program, merge):
        if merge.target not in CONCATENATIONS and program.ops[operand].shape != merge.shape:
            continue
        others = operands(program, merge) - {operand}
        for fork, weights, shortcut in walk(program, operand):
            heavier = {o: heaviest(program, fork, o) for o in others if heaviest(program, fork, o) > weights}
            if heavier:
                combine = "concat" if merge.target in CONCATENATIONS else "add"
                branch, longest = frozenset(heavier), max(heavier.values())
                yield Found(combine, shortcut, fork, merge.index, operand, weights, branch, longest)
                break


def beside(program: Program, skip: Found) -> set[int]:
    """The ops on the ways from a skip's fork to the merge's other operands."""
    others = operands(program, program.ops[skip.merge]) - {skip.operand}
    return {i for o in others for way in ways(program, skip.fork, o) for i in way[1:]}


def around(program: Program, skip: Found, found: set[Found]) -> set[Found]:
    """The innermost of the skips on whose branch this one lies; several where they are of one size."""
    outer = {
        other: len(beside(program, other))
        for other in found
        if skip.merge in beside(program, other) and (skip.fork in beside(program, other) or skip.fork == other.fork)
    }
    return {other for other in outer if outer[other] == min(outer.values())}


def is_inner(program: Program, op: Op) -> bool:
    """Whether an addition is a part of the next one: nothing else reads it."""
    if op.target in CONCATENATIONS or len(readers(program, op.index)) != 1:
        return False
    reader = program.ops[readers(program, op.index)[0]]
    return reader.kind == "merge" and reader.target not in CONCATENATIONS and reader.shape == op.shape


def operands(program: Program, merge: Op) -> set[int]:
    """What is joined, chains of additions unfolded."""
    joined = set()
    for index in merge.inputs:
        op = program.ops[index]
        unfold = op.kind == "merge" and merge.target not in CONCATENATIONS and is_inner(program, op)
        joined |= operands(program, op) if unfold else {index}
    return joined


def readers(program: Program, index: int) -> list[int]:
    return [op.index for op in program.ops for operand in op.inputs if operand == index]


def ways(program: Program, start: int, end: int) -> list[list[int]]:
    """Every way from one op to another, both included."""
    if start == end:
        return [[end]]
    return [[*way, end] for below in program.ops[end].inputs if below >= start for way in ways(program, start, below)]


def heaviest(program: Program, start: int, end: int) -> int:
    """Most weight layers on a way, the start's own left out; -1 when there is none."""
    counts = [sum(program.ops[i].kind in ("weight", "recurrent") for i in way[1:]) for way in ways(program, start, end)]
    return max(counts, default=-1)


def walk(program: Program, operand: int) -> list[tuple[int, int, str]]:
    """Back from an operand over transparent ops: each value met, with the weight layers and the kind so far."""
    op, crossed = program.ops[operand], []
    met = []
    while True:
        weights = crossed.count("weight")
        if weights or "batch_norm" in crossed:
            shortcut = "projection"
        else:
            shortcut = "resample" if "resample" in crossed else "identity"
        met.append((op.index, weights, shortcut))
        passable = op.kind in ("view", "resample", "batch_norm") or (op.kind == "weight" and weights == 0)
        if not passable or len(op.inputs) != 1:
            return met
        crossed.append(op.kind)
        op = program.ops[op.inputs[0]]


def is_attention_score(program: Program, merge: Op) -> bool:
    """Whether it is a product with something added, and goes into softmaxes alone."""
    return ends_in_softmax(program, merge) and any(is_product(program, o) for o in operands(program, merge))


def ends_in_softmax(program: Program, op: Op) -> bool:
    above = [program.ops[i] for i in readers(program, op.index)]
    if len(above) == 1 and above[0].kind == "view":
        return ends_in_softmax(program, above[0])
    return bool(above) and all(each.target == "softmax" for each in above)


def is_product(program: Program, index: int) -> bool:
    op = program.ops[index]
    if op.kind in ("view", "resample") and len(op.inputs) == 1:
        return is_product(program, op.inputs[0])
    return op.kind == "product"
