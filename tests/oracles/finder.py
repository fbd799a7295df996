"""Skip connections by the letter of their definition: every way from every value is written out and counted."""

import itertools
from collections.abc import Iterator
from typing import NamedTuple

from skiplab.graph.program import Op, Program

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
    """All skips, and the merges that are foldable."""
    found, foldable = set(), set()
    for merge in merges(program):
        here = {skip for skip in skips_at(program, merge) if not is_folded(program, skip)}
        found |= here
        if not here and (any(skips_at(program, merge)) or joins_linear_ways(program, merge)):
            foldable.add(merge.index)
    return found, foldable


def merges(program: Program) -> list[Op]:
    return [
        op
        for op in program.ops
        if op.kind == "merge" and not is_inner(program, op) and not is_attention_score(program, op)
    ]


def is_folded(program: Program, skip: Found) -> bool:
    around = beside(program, skip)
    return skip.combine == "add" and all(program.ops[i].kind in LINEAR for i in around)


def joins_linear_ways(program: Program, merge: Op) -> bool:
    """Whether a value exists that all ways to the operands pass, with nothing but linear ops behind it."""
    joined = operands(program, merge)
    if merge.target in CONCATENATIONS or len(joined) < 2:
        return False
    inputs = [op.index for op in program.ops if not op.inputs]
    everywhere = [way for start in inputs for o in joined for way in ways(program, start, o)]
    common = set.intersection(*(set(way) for way in everywhere))
    if not common:
        return False
    behind = [program.ops[i].kind for way in everywhere for i in way if i > max(common)]
    return set(behind) <= set(LINEAR) and "weight" in behind


def ways_meet(program: Program) -> set[int]:
    """The merges whose operands are not all computed from the same weight layers, merges and inputs."""
    return {m.index for m in merges(program) if len({sources(program, o) for o in operands(program, m)}) > 1}


def sources(program: Program, index: int) -> frozenset[int]:
    """The weight layers, merges of ways and inputs before an op, with nothing of these in between."""
    op = program.ops[index]
    below = [sources(program, i) for i in op.inputs]
    if not below or op.kind in ("weight", "recurrent") or (op.kind == "merge" and len(set(below)) > 1):
        return frozenset({index})
    return frozenset().union(*below)


def gates(program: Program) -> set[int]:
    """The products in which one signal weights another, and that are not the end of a gated sum."""
    ends = set()
    for merge in merges(program):
        if any(skip.shortcut == "gated" for skip in skips_at(program, merge) if not is_folded(program, skip)):
            ends |= {
                value
                for o in operands(program, merge)
                for value, weights, _, gated in walk(program, o)
                if not (gated or weights)
            }
    products = [op for op in program.ops if op.target == "mul"]
    return {op.index for op in products if len(op.inputs) == 2 and are_two_signals(program, *op.inputs)} - ends


def skips_at(program: Program, merge: Op) -> Iterator[Found]:
    for operand in operands(program, merge):
        if merge.target not in CONCATENATIONS and program.ops[operand].shape != merge.shape:
            continue
        others = operands(program, merge) - {operand}
        for fork, weights, shortcut, gated in walk(program, operand):
            most = {o: heaviest(program, fork, o, through_gates=not gated) for o in others}
            heavier = {o: count for o, count in most.items() if count > weights}
            if heavier:
                combine = "concat" if merge.target in CONCATENATIONS else "gated" if gated else "add"
                branch, longest = frozenset(heavier), max(heavier.values())
                yield Found(combine, shortcut, fork, merge.index, operand, weights, branch, longest)
                break


def beside(program: Program, skip: Found) -> set[int]:
    """The ops on the ways from a skip's fork to the merge's other operands."""
    others = operands(program, program.ops[skip.merge]) - {skip.operand}
    return {i for o in others for way in ways(program, skip.fork, o) for i in way[1:]}


def around(program: Program, skip: Found, found: set[Found]) -> set[Found]:
    """The innermost of the skips on whose branch this one lies; several where they are of one size."""
    outer = {other: len(beside(program, other)) for other in found if is_around(program, other, skip)}
    return {other for other in outer if outer[other] == min(outer.values())}


def is_around(program: Program, outer: Found, skip: Found) -> bool:
    on_branch = beside(program, outer)
    if outer.merge == skip.merge:  # a chain of sums: the later one is around the earlier
        return arrival(program, outer) > arrival(program, skip) and skip.fork in on_branch
    return skip.merge in on_branch and (skip.fork in on_branch or skip.fork == outer.fork)


def arrival(program: Program, skip: Found) -> int:
    """The sum of a chain that reads the shortcut's end."""
    chain, rest = [], [program.ops[skip.merge]]
    while rest:
        op = rest.pop()
        chain.append(op)
        rest += [
            program.ops[i] for i in op.inputs if program.ops[i].kind == "merge" and is_inner(program, program.ops[i])
        ]
    return next(op.index for op in chain if skip.operand in op.inputs)


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


def heaviest(program: Program, start: int, end: int, through_gates: bool = True) -> int:
    """Most weight layers on a way, the start's own left out; -1 when there is none."""
    counts = [
        sum(program.ops[i].kind in ("weight", "recurrent") for i in way[1:])
        for way in ways(program, start, end)
        if through_gates or not any(gate(program, program.ops[b]) == a for a, b in itertools.pairwise(way))
    ]
    return max(counts, default=-1)


def gate(program: Program, op: Op) -> int | None:
    """The one factor of a product of two that comes straight from a sigmoid."""
    if op.target != "mul" or len(op.inputs) != 2 or op.inputs[0] == op.inputs[1]:
        return None
    gates = [i for i in op.inputs if is_squashed(program, program.ops[i])]
    return gates[0] if len(gates) == 1 and are_two_signals(program, *op.inputs) else None


def are_two_signals(program: Program, one: int, other: int) -> bool:
    """Whether two factors have different origins, or come from different slices of one value."""
    if sources(program, one) != sources(program, other):
        return True
    first, second = slices(program, one), slices(program, other)
    if not first or not second or first & second or None in first | second:
        return False
    return len({sliced(program, i) for i in first | second if i is not None}) == 1


def sliced(program: Program, index: int) -> int:
    """What a slice is taken of: of a function of each entry, as much as of the entries."""
    op = program.ops[program.ops[index].inputs[0]]
    return sliced(program, op.index) if is_whole(program, op) or op.target == "sigmoid" else op.index


def is_whole(program: Program, op: Op) -> bool:
    return op.target == "slice" and op.shape == program.ops[op.inputs[0]].shape


def slices(program: Program, index: int) -> set[int | None]:
    """The slices from which an op is computed; None among them where a way leads around all slices."""
    op = program.ops[index]
    if op.target == "slice" and not is_whole(program, op):
        return {index}
    if op.kind in ("weight", "recurrent", "input"):
        return {None}
    return set().union(*(slices(program, i) for i in op.inputs))


def is_squashed(program: Program, op: Op) -> bool:
    if op.kind in ("view", "resample", "expand") and len(op.inputs) == 1:
        return is_squashed(program, program.ops[op.inputs[0]])
    return op.target in ("sigmoid", "softmax")


def walk(program: Program, operand: int) -> list[tuple[int, int, str, bool]]:
    """Back from an operand over transparent ops and gates: each value, the weight layers and the kind so far."""
    op, crossed = program.ops[operand], []
    met = []
    while True:
        weights = crossed.count("weight")
        gated = "gate" in crossed
        if gated:
            shortcut = "gated"
        elif weights or "batch_norm" in crossed:
            shortcut = "projection"
        else:
            shortcut = "resample" if "resample" in crossed else "identity"
        met.append((op.index, weights, shortcut, gated))
        by = gate(program, op)
        if by is not None:
            crossed.append("gate")
            op = program.ops[next(i for i in op.inputs if i != by)]
            continue
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
