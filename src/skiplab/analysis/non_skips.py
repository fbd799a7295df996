"""Places where paths of the signal meet without a skip connection, each with its reason.

The reasons are gates, fusion, foldable sums, and the unknown.
"""

from collections.abc import Iterator, Sequence

from torch.fx import Node

from skiplab.analysis.backtrace import ShortcutTraces
from skiplab.analysis.merges import Merge
from skiplab.analysis.reachability import MergeReachability, between
from skiplab.analysis.shortcut_match import ShortcutMatch
from skiplab.analysis.skips import NonSkip, Reason
from skiplab.graph.ops import LINEAR, is_concat, op_info
from skiplab.graph.origins import group_by_origin
from skiplab.graph.program import Op, Program
from skiplab.graph.slices import are_two_signals


def separate_non_skips(
    traces: ShortcutTraces, merges: Sequence[Merge], matches: Sequence[Sequence[ShortcutMatch]]
) -> tuple[list[list[ShortcutMatch]], list[NonSkip]]:
    """The matches that are skips, merge by merge, and all non-skips of a program in order of execution."""
    program = traces.program
    accepted: list[list[ShortcutMatch]] = []
    found: list[NonSkip] = []
    products: set[int] = set()
    for merge, candidates in zip(merges, matches, strict=True):
        reasons = {match: _rejection(program, match) for match in candidates}
        accepted.append([match for match, reason in reasons.items() if reason is None])
        if any(match.step.gates for match in accepted[-1]):
            products |= _products_of_gated_sum(traces, merge)
        if not accepted[-1]:
            rejection = [reason for reason in reasons.values() if reason is not None][-1:]
            found += rejection or _merge_without_shortcut(traces, merge)
    found += [*_gates(traces, products), *_other_joints(program)]
    return accepted, sorted(found, key=lambda each: program.by_name[each.op].index)


def _rejection(program: Program, match: ShortcutMatch) -> NonSkip | None:
    """Why a matched shortcut is no skip; None if it is one."""
    mixing = next((op for op in match.shortcut_ops if _mixes_lanes(program, op)), None)
    if mixing is not None:
        return _non_skip(match.merge.op, "unknown", f"`{mixing.name}` mixes several lanes into its shortcut")
    if is_concat(match.merge.op.target) or match.step.gates:
        return None
    others = [operand for i, operand in enumerate(match.merge.operands) if i != match.position]
    is_linear = all(program.ops[i].kind in LINEAR for i in between(program, match.step.value, others))
    return _foldable(match.merge) if is_linear else None


def _products_of_gated_sum(traces: ShortcutTraces, merge: Merge) -> set[int]:
    """The products at the ends of a gated sum: they are part of the skip, and no gates of their own."""
    steps = (step for operand in merge.operands for step in traces.trace(operand))
    ends = (step.value for step in steps if not (step.gates or step.weights))
    return {index for index in ends if traces.program.ops[index].kind == "product"}


def _gates(traces: ShortcutTraces, products: set[int]) -> Iterator[NonSkip]:
    """Products in which one signal weights another (squeeze-excite, GLU, an LSTM's output gate).

    Two factors computed from one value make a function of it, as in x · Φ(x), and no gate.

    Args:
        traces: those of the program.
        products: those that belong to a gated skip.
    """
    program = traces.program
    for op in program.ops:
        if op.kind != "product" or op.index in products:
            continue
        if op.target == "glu":
            yield _non_skip(op, "gate", "one half of the channels weights the other")
        elif op_info(op.target).multiplication and len(op.inputs) == 2 and are_two_signals(program, *op.inputs):
            gate = traces.gate(op)
            weight = "another signal" if gate is None else f"`{program.ops[gate].module or program.ops[gate].name}`"
            yield _non_skip(op, "gate", f"weighted by {weight}")


def _other_joints(program: Program) -> Iterator[NonSkip]:
    """Operators other than sums and products at which paths meet, such as a maximum or a choice by the data."""
    for op in program.ops:
        can_join = op.kind in ("activation", "other", "max_pool", "norm")
        if can_join and len(group_by_origin(program.origins, op.inputs)) > 1:
            reason = "unknown" if op.kind == "other" else "fusion"
            yield _non_skip(op, reason, f"paths meet in `{op.target}`, which carries neither on unchanged")


def _merge_without_shortcut(traces: ShortcutTraces, merge: Merge) -> list[NonSkip]:
    """Why a merge without a matched shortcut is no skip; empty where no paths meet at it."""
    program = traces.program
    if _is_foldable(program, merge):
        return [_foldable(merge)]
    met = group_by_origin(program.origins, merge.operands)
    if len(met) < 2:
        return []
    obstacle = _obstacle(traces, merge)
    if obstacle is not None:
        return [_non_skip(merge.op, "unknown", obstacle)]
    return [_non_skip(merge.op, "fusion", f"{len(met)} paths meet, and none of them is a shortcut")]


def _foldable(merge: Merge) -> NonSkip:
    return _non_skip(merge.op, "foldable", "all of its paths are linear: one linear layer could replace them")


def _is_foldable(program: Program, merge: Merge) -> bool:
    """Whether a sum joins only linear paths from one common value (RepVGG; Ding et al. 2021, §3.3)."""
    if is_concat(merge.op.target) or len(set(merge.operands)) < 2:
        return False
    front = set(merge.operands)
    while len(front) > 1:
        op = program.ops[max(front)]
        if op.kind not in LINEAR or not op.inputs:
            return False
        front.remove(op.index)
        front.update(op.inputs)
    return any(program.ops[i].kind == "weight" for i in between(program, front.pop(), merge.operands))


def _mixes_lanes(program: Program, op: Op) -> bool:
    """Whether a weight layer multiplies from the left, and so mixes lanes or positions instead of channels."""
    if op.kind != "weight" or not op_info(op.target).matrix_product:
        return False
    node = program.nodes[op.name]
    data = program.ops[op.inputs[0]].name
    if op.target == "einsum":
        return _contracts_another(node, data)
    return isinstance(node.args[1], Node) and node.args[1].name == data


def _contracts_another(node: Node, data: str) -> bool:
    """Whether an einsum sums over a dimension of the data other than channels: the last, or an image's second."""
    equation, operands = node.args[0], node.args[1]
    assert isinstance(equation, str)
    terms, _, result = equation.replace(" ", "").partition("->")
    letters = next(
        term
        for term, each in zip(terms.split(","), operands, strict=True)  # type: ignore[arg-type]
        if isinstance(each, Node) and each.name == data
    )
    channels = {letters[-1], letters[1] if len(letters) > 3 else letters[-1]}
    return any(letter not in result and letter not in channels for letter in letters)


def _obstacle(traces: ShortcutTraces, merge: Merge) -> str | None:
    """Describes the op without which the merge would be a skip, if the definition does not cover this op."""
    program = traces.program
    for position, operand in enumerate(merge.operands):
        last = traces.trace(operand)[-1]
        description = _description(program.ops[last.value])
        if description is None or last.gates or not merge.takes_whole(program, operand):
            continue
        forks = [
            (step.value, last.weights + step.weights)
            for source in program.ops[last.value].inputs
            for step in traces.trace(source)
            if len(program.users[step.value]) > 1 and last.weights + step.weights < 2
        ]
        least = min([last.value, *(fork for fork, _ in forks)])
        to_merge = MergeReachability(program, merge.operands, least)
        to_op = MergeReachability(program, (last.value,), least)
        if to_merge.reaches_other_operand(last.value, position):
            continue  # the op is not on this operand's path alone
        if any(to_op.most_weights(fork) <= light < to_merge.most_weights(fork, position) for fork, light in forks):
            return description
    return None


def _description(op: Op) -> str | None:
    if op.kind == "other":
        return f"the operator `{op.target}` on its shortcut is not known"
    if op.kind == "merge" and not is_concat(op.target):
        return f"its shortcut is itself a sum, `{op.name}`"
    if op.kind == "product" and op_info(op.target).matrix_product:
        return f"its shortcut is mixed by a matrix that depends on the data, in `{op.name}`"
    return None


def _non_skip(op: Op, reason: Reason, detail: str) -> NonSkip:
    return NonSkip(op=op.name, path=op.module, reason=reason, detail=detail, source=op.source)
