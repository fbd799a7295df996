"""Find skip connections in a program, by the definition of DESIGN §2: fork → (shortcut ∥ branch) → merge.

For every merge and each of its operands, walk back over operators that leave the signal what it is. The first
value on that walk on which another operand depends through strictly more weight layers is the fork. The search
for that dependence goes back from the merge no further than the candidates, so the whole is linear in the size
of the graph for any bounded depth of nesting.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import replace

from skiplab.merges import Merge, merges
from skiplab.ops import LINEAR, TRANSPARENT, WEIGHT_LAYERS, is_concat
from skiplab.program import Op, Program
from skiplab.skips import Apart, Shortcut, Skip, Skips


def find(program: Program) -> Skips:
    """Every `add` and `concat` skip connection of a program, nested ones included."""
    found: list[tuple[Skip, frozenset[int]]] = []
    apart: list[Apart] = []
    for merge in merges(program):
        for skip, region in _at_merge(program, merge):
            if _is_foldable(program, merge, region):
                apart.append(Apart(merge.op.name, merge.op.module, "foldable", merge.op.source))
            else:
                found.append((skip, region))
    return Skips(_with_parents(program, _with_ids(found)), apart)


def _at_merge(program: Program, merge: Merge) -> Iterator[tuple[Skip, frozenset[int]]]:
    """The skips that end at one merge, each with the ops on its branch."""
    walks = [_walk(program, operand) if _same_extent(program, merge, operand) else () for operand in merge.operands]
    candidates = {value for walk in walks for value, _, _ in walk}
    if not candidates:
        return
    heaviest = _heaviest(program, merge, candidates)
    for position, walk in enumerate(walks):
        if merge.operands[position] in merge.operands[:position]:
            continue  # the same value added twice is one shortcut
        for fork, weights, shortcut in walk:
            # Its walk is the only way from a fork to the operand, so whatever is heavier is another operand's.
            if heaviest.get(fork, -1) > weights:
                yield _skip(program, merge, position, (fork, weights, shortcut))
                break


def _same_extent(program: Program, merge: Merge, operand: int) -> bool:
    """Whether an added operand meets each entry of the sum once: a broadcast one carries nothing past."""
    if is_concat(merge.op.target):
        return True
    return program.ops[operand].shape == merge.op.shape


def _walk(program: Program, operand: int) -> tuple[tuple[int, int, Shortcut], ...]:
    """Values from a merge's operand back along its light way: (value, weight layers since, kind of shortcut).

    Only a value that several ops read (or one op twice) can be a fork; from any other, all ways go on through
    its only reader.
    """
    steps: list[tuple[int, int, Shortcut]] = []
    weights, kind = 0, "identity"
    op = program.ops[operand]
    while True:
        if len(program.users[op.index]) > 1:
            steps.append((op.index, weights, kind))  # type: ignore[arg-type]
        if len(op.inputs) != 1 or not (op.kind in TRANSPARENT or (op.kind == "weight" and not weights)):
            return tuple(steps)
        if op.kind == "weight":
            weights = 1
        if op.kind in ("weight", "batch_norm"):
            kind = "projection"
        elif op.kind == "resample" and kind == "identity":
            kind = "resample"
        op = program.ops[op.inputs[0]]


def _heaviest(program: Program, merge: Merge, candidates: set[int]) -> dict[int, int]:
    """For each candidate, the most weight layers on its ways to the merge's operands: one pass backwards."""
    most = dict.fromkeys(merge.operands, 0)
    for index in range(max(merge.operands), min(candidates), -1):
        if index in most:
            op = program.ops[index]
            weights = most[index] + (op.kind in WEIGHT_LAYERS)
            for operand in op.inputs:
                most[operand] = max(weights, most.get(operand, -1))
    return most


def _skip(
    program: Program, merge: Merge, position: int, step: tuple[int, int, Shortcut]
) -> tuple[Skip, frozenset[int]]:
    fork, weights, shortcut = step
    others = [o for i, o in enumerate(merge.operands) if i != position]
    region, longest = _between(program, fork, others)
    branch = tuple(dict.fromkeys(program.ops[o].name for o in others if longest.get(o, -1) > weights))
    skip = Skip(
        id="",
        path=merge.op.module,
        combine="concat" if is_concat(merge.op.target) else "add",
        shortcut=shortcut,
        fork=program.ops[fork].name,
        merge=merge.op.name,
        operand=program.ops[merge.operands[position]].name,
        branch=branch,
        weight_layers=max(longest[o] for o in others if o in longest),
        shortcut_weight_layers=weights,
        activation_after=_activation_after(program, merge.op),
        source=merge.op.source,
        parent=None,
        program=program.fingerprint,
    )
    return skip, region


def _between(program: Program, fork: int, ends: list[int]) -> tuple[frozenset[int], dict[int, int]]:
    """Ops on ways from the fork to the ends (without the fork), and each one's most weight layers since."""
    longest = {fork: 0}
    for index in range(fork + 1, max(ends) + 1):
        op = program.ops[index]
        below = [longest[i] for i in op.inputs if i in longest]
        if below:
            longest[index] = max(below) + (op.kind in WEIGHT_LAYERS)
    region = {end for end in ends if end in longest and end != fork}
    for index in range(max(ends), fork, -1):
        if index in region:
            region.update(i for i in program.ops[index].inputs if i in longest and i != fork)
    return frozenset(region), longest


def _is_foldable(program: Program, merge: Merge, region: frozenset[int]) -> bool:
    """A sum in which nothing nonlinear lies beside the shortcut is one linear layer in disguise (RepVGG)."""
    return not is_concat(merge.op.target) and all(program.ops[i].kind in LINEAR for i in region)


def _activation_after(program: Program, op: Op) -> str | None:
    users = program.users[op.index]
    while len(users) == 1 and op.index not in program.outputs:
        user = op = program.ops[users[0]]
        if user.kind == "activation":
            return user.target
        if user.kind != "view":
            return None
        users = program.users[user.index]
    return None


def _with_ids(found: list[tuple[Skip, frozenset[int]]]) -> list[tuple[Skip, frozenset[int]]]:
    """Ids in order of the merges: the path, with a number where the path alone would not be unique."""
    found = found[::-1]  # merges were visited from the last to the first
    total = Counter(skip.path for skip, _ in found)
    seen: Counter[str] = Counter()
    named = []
    for skip, region in found:
        seen[skip.path] += 1
        name = skip.path or "forward"
        number = f"#{seen[skip.path]}" if total[skip.path] > 1 else ""
        named.append((replace(skip, id=name + number), region))
    return named


def _with_parents(program: Program, found: list[tuple[Skip, frozenset[int]]]) -> Iterator[Skip]:
    around: dict[int, list[int]] = defaultdict(list)  # op -> the skips on whose branch it lies
    for number, (_, region) in enumerate(found):
        for index in region:
            around[index].append(number)
    for skip, _ in found:
        merge, fork = program.by_name[skip.merge].index, program.by_name[skip.fork].index
        outer = [
            (len(found[n][1]), found[n][0].id)
            for n in around.get(merge, ())
            if fork in found[n][1] or found[n][0].fork == skip.fork
        ]
        yield replace(skip, parent=min(outer)[1] if outer else None)
