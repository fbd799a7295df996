"""Find skip connections in a program, by the definition of DESIGN §2: fork → (shortcut ∥ branch) → merge.

For every merge and each of its operands, walk back over operators that leave the signal what it is. The first
value on that walk on which another operand depends through strictly more weight layers is the fork. The search
for that dependence goes back from the merge no further than the candidates, so the whole is linear in the size
of the graph for any bounded depth of nesting.
"""

import os.path
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

from skiplab.analysis import non_skips
from skiplab.analysis.backtrace import Step, route, walk
from skiplab.analysis.merges import Merge, merges
from skiplab.analysis.nesting import Span, parents
from skiplab.analysis.reachability import Reach, between
from skiplab.analysis.recurrent_cells import cell_skips
from skiplab.analysis.scale_factors import factors
from skiplab.analysis.skips import Apart, Skip, Skips
from skiplab.graph.ops import LINEAR, TRANSPARENT, is_concat, keeps_whole
from skiplab.graph.program import Op, Program
from skiplab.graph.slices import elsewhere


def find(program: Program) -> Skips:
    """Every skip connection of a program, nested ones included, and apart from them what is none."""
    found: list[_Found] = []
    beside: list[tuple[int, Apart]] = []
    used: set[int] = set()
    for merge in merges(program):
        here, why = _at_merge(program, merge)
        found += here
        if any(each.skip.shortcut == "gated" for each in here):
            used |= _products(program, merge)
        why = why or (None if here else non_skips.merge_apart(program, merge))
        if why is not None:
            beside.append((merge.op.index, why))
    others = [*non_skips.gates(program, used), *non_skips.joints(program)]
    beside += [(program.by_name[each.op].index, each) for each in others]
    found += [_Found(index, skip, None) for index, skip in cell_skips(program)]
    found.sort(key=lambda each: each.merge)  # those of one merge stay in order of its operands
    return Skips(_named(found), (why for _, why in sorted(beside, key=lambda pair: pair[0])))


@dataclass(frozen=True, slots=True, eq=False)
class _Found:
    """A skip with its merge's index and, unless it lies inside one operator, its place in the graph."""

    merge: int
    skip: Skip
    span: Span | None


@dataclass(frozen=True, slots=True)
class _End:
    """A shortcut's end: the merge's operand at `position`, and where its way comes from.

    `branch` are the positions of the operands that depend on the fork through more weight layers, `weights` the
    most of these. A scan's step has no such operand: then all others are its branch.
    """

    position: int
    step: Step
    branch: tuple[int, ...]
    weights: int


def _at_merge(program: Program, merge: Merge) -> tuple[list[_Found], Apart | None]:
    """The skips that end at one merge; or why there is none, where that is plain from what was found."""
    if merge.op.target == "stack":
        return [], None  # side by side in a new dimension, as the steps of a sequence are
    walks = [walk(program, operand) if merge.takes_whole(program, operand) else () for operand in merge.operands]
    candidates = [step.value for steps in walks for step in steps]
    if not candidates:
        return [], None
    reach = Reach(program, merge.operands, min(candidates))
    ends = list(_ends(program, merge, walks, reach))
    forks = sorted({end.step.value for end in ends})
    comes: dict[int, int] = {}
    found, why = [], None
    for end in ends:
        way = route(program, merge.operands[end.position], end.step.value)
        mixing = next((op for op in way if non_skips.mixes_lanes(program, op)), None)
        if mixing is not None:
            why = non_skips.mixed(merge, mixing)
        elif _is_foldable(program, merge, end):
            why = non_skips.folded(merge)
        else:
            comes = comes or reach.descent(forks)
            at = merge.readers[end.position]
            span = Span(end.step.value, merge.op.index, at, end.position, reach, comes, forks.index(end.step.value))
            found.append(_Found(merge.op.index, _skip(program, merge, end, way), span))
    return found, None if found else why


def _ends(program: Program, merge: Merge, walks: list[tuple[Step, ...]], reach: Reach) -> Iterator[_End]:
    for position, steps in enumerate(walks):
        if merge.operands[position] in merge.operands[:position]:
            continue  # the same value added twice is one shortcut
        strict: dict[tuple, Reach] = {}
        for step in steps:
            if len(program.users[step.value]) < 2:
                continue  # from here all ways go on through its only reader
            ways = reach
            if step.gates or step.positions:
                limits = bool(step.gates), step.positions
                ways = strict[limits] = strict.get(limits) or _strict(program, merge, step, min(reach.ways))
            if ways.heaviest(step.value, position) > step.weights:
                branch = ways.heavier(step.value, step.weights, position)
                yield _End(position, step, tuple(branch), ways.heaviest(step.value, position))
                break
        else:
            carried = next((step for step in steps if _is_scan(program, merge, step)), None)
            if carried is not None:
                rest = [i for i in range(len(merge.operands)) if i != position]
                yield _End(position, carried, tuple(rest), 0)


def _strict(program: Program, merge: Merge, step: Step, least: int) -> Reach:
    """Ways on which an operand counts as branch of a shortcut that is gated, or takes one position.

    That only a gate depends on the fork makes no branch (selective kernels), nor does what depends on other
    positions alone (the steps of a recurrent network).
    """
    apart_from = frozenset(index for taken in step.positions for index in elsewhere(program, taken))
    return Reach(program, merge.operands, least, gates=not step.gates, without=apart_from)


def _is_scan(program: Program, merge: Merge, step: Step) -> bool:
    """Whether gates alone lie between a merge and what its own line made in the step before: hₜ = aₜ·hₜ₋₁ + bₜ."""
    before = program.ops[step.value]
    line = (merge.op.target, merge.op.source, merge.op.module)
    same = before.source is not None and (before.target, before.source, before.module) == line
    return same and bool(step.gates) and not step.weights


def _skip(program: Program, merge: Merge, end: _End, way: tuple[Op, ...]) -> Skip:
    step = end.step
    branch = tuple(dict.fromkeys(merge.operands[i] for i in end.branch))
    at = program.ops[merge.readers[end.position]]  # of a chain of sums the one where this shortcut arrives
    partly = step.shortcut == "identity" and not keeps_whole(merge.op.target, end.position)
    combine = "concat" if is_concat(merge.op.target) else "gated" if step.shortcut == "gated" else "add"
    return Skip(
        id="",
        path=at.module or _path_of_weights(program, end, merge),
        combine=combine,
        shortcut="resample" if partly else step.shortcut,
        fork=program.ops[step.value].name,
        merge=merge.op.name,
        operand=program.ops[merge.operands[end.position]].name,
        branch=tuple(program.ops[operand].name for operand in branch),
        weight_layers=end.weights,
        shortcut_weight_layers=step.weights,
        long=_is_long(program, merge, end, way),
        shortcut_scale=factors(program, way),
        branch_scale=tuple(dict.fromkeys(f for o in branch for f in factors(program, _tail(program, o)))),
        gates=tuple(program.ops[index].name for index in step.gates),
        steps=None,
        activation_after=_activation_after(program, merge.op),
        source=at.source,
        parent=None,
        program=program.fingerprint,
    )


def _path_of_weights(program: Program, end: _End, merge: Merge) -> str:
    """Where the graph knows no modules, as that of generated code: the innermost one that has all of the weights."""
    if program.has_modules:
        return ""
    region = between(program, end.step.value, (merge.operands[i] for i in end.branch))
    owners = {name.rpartition(".")[0] for index in region for name in program.ops[index].weights}
    return os.path.commonpath([owner.replace(".", "/") for owner in owners]).replace("/", ".") if owners else ""


def _tail(program: Program, operand: int) -> tuple[Op, ...]:
    """The ops behind a branch's last weight layer or nonlinearity."""
    ops = []
    op = program.ops[operand]
    while op.kind in TRANSPARENT and len(op.inputs) == 1:
        ops.append(op)
        op = program.ops[op.inputs[0]]
    return tuple(ops)


def _is_long(program: Program, merge: Merge, end: _End, way: tuple[Op, ...]) -> bool:
    """Whether the branch grows in resolution while the shortcut does not: it must have shrunk before."""
    if any(op.index in program.growing for op in way):
        return False
    growing = [i for i in program.growing if end.step.value < i < merge.op.index]
    if not growing:
        return False
    region = between(program, end.step.value, (merge.operands[i] for i in end.branch))
    return any(index in region for index in growing)


def _is_foldable(program: Program, merge: Merge, end: _End) -> bool:
    """A sum in which nothing nonlinear lies beside the shortcut is one linear layer in disguise (RepVGG)."""
    if is_concat(merge.op.target) or end.step.gates:
        return False
    others = [operand for i, operand in enumerate(merge.operands) if i != end.position]
    return all(program.ops[i].kind in LINEAR for i in between(program, end.step.value, others))


def _products(program: Program, merge: Merge) -> set[int]:
    """The products at the ends of a gated sum: part of it, and no gates of their own."""
    met = (
        step.value for operand in merge.operands for step in walk(program, operand) if not (step.gates or step.weights)
    )
    return {index for index in met if program.ops[index].kind == "product"}


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


def _named(found: list[_Found]) -> Iterator[Skip]:
    """With ids (the path, numbered where it alone would not be unique) and parents."""
    total = Counter(each.skip.path for each in found)
    seen: Counter[str] = Counter()
    skips = []
    for each in found:
        path = each.skip.path
        seen[path] += 1
        number = f"#{seen[path]}" if total[path] > 1 else ""
        skips.append(replace(each.skip, id=(path or "forward") + number))
    placed = [number for number, each in enumerate(found) if each.span is not None]
    around = parents([each.span for each in found if each.span is not None])
    outer = {number: placed[parent] for number, parent in zip(placed, around, strict=True) if parent is not None}
    for number, skip in enumerate(skips):
        yield replace(skip, parent=skips[outer[number]].id) if number in outer else skip
