"""Make the records of skips from matched shortcuts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from skiplab.analysis.nesting import Span
from skiplab.analysis.reachability import between
from skiplab.analysis.scale_factors import factors
from skiplab.analysis.shortcut_match import ShortcutMatch
from skiplab.analysis.skips import Skip
from skiplab.graph.ops import TRANSPARENT, is_concat, keeps_whole
from skiplab.graph.program import Op, Program
from skiplab.graph.source_map import common_path


@dataclass(frozen=True, slots=True, eq=False)
class SkipCandidate:
    """A skip that has no id and no parent yet, the index of its merge, and its region; None inside a fused operator."""

    merge: int
    skip: Skip
    span: Span | None


def skip_candidates(program: Program, matches: Sequence[Sequence[ShortcutMatch]]) -> list[SkipCandidate]:
    """The candidates of matched shortcuts, which are given merge by merge."""
    operands = {match.merge.operands[i] for group in matches for match in group for i in match.branch}
    branch_scales = {operand: factors(program, _branch_end(program, operand)) for operand in operands}
    found = []
    for group in matches:
        forks = sorted({match.step.value for match in group})
        fork_bits = group[0].reachability.fork_bitmask(forks) if group else {}
        for match in group:
            merge = match.merge
            span = Span(
                fork=match.step.value,
                merge=merge.op.index,
                arrival=merge.readers[match.position],
                position=match.position,
                reachability=match.reachability,
                fork_bits=fork_bits,
                bit=forks.index(match.step.value),
            )
            found.append(SkipCandidate(merge.op.index, _skip(program, match, branch_scales), span))
    return found


def _skip(program: Program, match: ShortcutMatch, branch_scales: Mapping[int, tuple[str, ...]]) -> Skip:
    merge, step = match.merge, match.step
    branch = tuple(dict.fromkeys(merge.operands[i] for i in match.branch))
    arrival = program.ops[merge.readers[match.position]]  # in a chain of additions, the one that reads the shortcut
    is_part = step.shortcut == "identity" and not keeps_whole(merge.op.target, match.position)
    combine = "concat" if is_concat(merge.op.target) else "gated" if step.shortcut == "gated" else "add"
    return Skip(
        id="",
        path=arrival.module or _module_of_weights(program, match),
        combine=combine,
        shortcut="resample" if is_part else step.shortcut,
        fork=program.ops[step.value].name,
        merge=merge.op.name,
        operand=program.ops[merge.operands[match.position]].name,
        branch=tuple(program.ops[operand].name for operand in branch),
        weight_layers=match.weights,
        shortcut_weight_layers=step.weights,
        long=_is_long(program, match),
        shortcut_scale=factors(program, match.shortcut_ops),
        branch_scale=tuple(dict.fromkeys(factor for operand in branch for factor in branch_scales[operand])),
        gates=tuple(program.ops[index].name for index in step.gates),
        location="graph",
        steps=None,
        activation_after=_activation_after(program, merge.op),
        source=arrival.source,
        parent=None,
        program=program.fingerprint,
    )


def _module_of_weights(program: Program, match: ShortcutMatch) -> str:
    """The innermost module that owns all weights on the branch, in a graph that knows no modules (generated code)."""
    if program.has_modules:
        return ""
    weights = (name for index in _branch_ops(program, match) for name in program.ops[index].weights)
    return common_path(name.rpartition(".")[0] for name in weights)


def _branch_ops(program: Program, match: ShortcutMatch) -> set[int]:
    return between(program, match.step.value, (match.merge.operands[i] for i in match.branch))


def _branch_end(program: Program, operand: int) -> tuple[Op, ...]:
    """The ops after a branch's last weight layer or nonlinearity."""
    ops = []
    op = program.ops[operand]
    while op.kind in TRANSPARENT and len(op.inputs) == 1:
        ops.append(op)
        op = program.ops[op.inputs[0]]
    return tuple(ops)


def _is_long(program: Program, match: ShortcutMatch) -> bool:
    """Whether the branch raises the resolution and the shortcut does not: then the branch lowers it before."""
    if any(op.index in program.growing for op in match.shortcut_ops):
        return False
    growing = [i for i in program.growing if match.step.value < i < match.merge.op.index]
    return bool(growing) and not _branch_ops(program, match).isdisjoint(growing)


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
