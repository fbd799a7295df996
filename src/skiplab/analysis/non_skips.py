"""What is no skip connection, listed apart with its reason: gates, fusion, foldable sums, and the unknown."""

from collections.abc import Iterator

from torch.fx import Node

from skiplab.analysis.backtrace import gate, walk
from skiplab.analysis.merges import Merge
from skiplab.analysis.reachability import Reach
from skiplab.analysis.skips import Apart, Reason
from skiplab.graph.ops import LINEAR, is_concat, op_info
from skiplab.graph.origins import ways
from skiplab.graph.program import Op, Program
from skiplab.graph.slices import are_two_signals


def gates(program: Program, used: set[int]) -> Iterator[Apart]:
    """Products in which one signal weights another: squeeze-excite, GLU, an LSTM's output gate.

    Factors made of one and the same value are a function of it, as x · Φ(x) is.

    Args:
        program: where they stand.
        used: products that belong to a gated skip.
    """
    for op in program.ops:
        if op.kind != "product" or op.index in used:
            continue
        if op.target == "glu":
            yield _apart(op, "gate", "one half of the channels weights the other")
        elif op_info(op.target).multiplication and len(op.inputs) == 2 and are_two_signals(program, *op.inputs):
            by = gate(program, op)
            weight = "another signal" if by is None else f"`{program.ops[by].module or program.ops[by].name}`"
            yield _apart(op, "gate", f"weighted by {weight}")


def joints(program: Program) -> Iterator[Apart]:
    """Where ways meet in an operator that is neither sum nor product, such as a maximum or a choice by the data."""
    for op in program.ops:
        if op.kind in ("activation", "other", "max_pool", "norm") and len(ways(program.anchors, op.inputs)) > 1:
            reason = "unknown" if op.kind == "other" else "fusion"
            yield _apart(op, reason, f"ways meet in `{op.target}`, which carries neither of them on as it is")


def merge_apart(program: Program, merge: Merge) -> Apart | None:
    """Why a merge without a skip is none; None where no ways meet at it."""
    if is_foldable(program, merge):
        return folded(merge)
    met = ways(program.anchors, merge.operands)
    if len(met) < 2:
        return None
    through = _unnamed(program, merge)
    if through is not None:
        return _apart(merge.op, "unknown", through)
    return _apart(merge.op, "fusion", f"{len(met)} ways meet, and none of them is light")


def folded(merge: Merge) -> Apart:
    """The entry of a sum whose ways are all linear."""
    return _apart(merge.op, "foldable", "nothing nonlinear lies on its ways: one linear layer in disguise")


def mixed(merge: Merge, by: Op) -> Apart:
    """The entry of a merge whose shortcut is mixed from several lanes."""
    return _apart(merge.op, "unknown", f"its shortcut is mixed from several lanes by `{by.name}`")


def is_foldable(program: Program, merge: Merge) -> bool:
    """Whether a sum joins only linear ways from one common value (RepVGG; Ding et al. 2021, §3.3)."""
    if is_concat(merge.op.target) or len(set(merge.operands)) < 2:
        return False
    front = set(merge.operands)
    while len(front) > 1:
        op = program.ops[max(front)]
        if op.kind not in LINEAR or not op.inputs:
            return False
        front.remove(op.index)
        front.update(op.inputs)
    return any(program.ops[i].kind == "weight" for i in _down_to(program, merge, front.pop()))


def _down_to(program: Program, merge: Merge, fork: int) -> set[int]:
    inside, rest = set(), [operand for operand in merge.operands if operand != fork]
    while rest:
        index = rest.pop()
        if index not in inside:
            inside.add(index)
            rest += [i for i in program.ops[index].inputs if i != fork]
    return inside


def mixes_lanes(program: Program, op: Op) -> bool:
    """Whether a weight layer multiplies from the left, and so mixes what stands side by side, not channels."""
    if op.kind != "weight" or not op_info(op.target).matrix_product:
        return False
    node = program.nodes[op.name]
    data = program.ops[op.inputs[0]].name
    if op.target == "einsum":
        return _contracts_another(node, data)
    return isinstance(node.args[1], Node) and node.args[1].name == data


def _contracts_another(node: Node, data: str) -> bool:
    """Whether an einsum sums over another dimension of the data than its channels: the last, or an image's second."""
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


def _unnamed(program: Program, merge: Merge) -> str | None:
    """What carries the signal past a branch, where that is nothing that the definition names."""
    for position, operand in enumerate(merge.operands):
        last = walk(program, operand)[-1]
        what = _crossing(program.ops[last.value])
        if what is None or last.gates or not merge.takes_whole(program, operand):
            continue
        behind = [
            (step.value, last.weights + step.weights)
            for source in program.ops[last.value].inputs
            for step in walk(program, source)
            if len(program.users[step.value]) > 1 and last.weights + step.weights < 2
        ]
        least = min([last.value, *(value for value, _ in behind)])
        reach, inner = Reach(program, merge.operands, least), Reach(program, (last.value,), least)
        if reach.leads_past(last.value, position):
            continue  # it is not on the way of this operand alone
        if any(inner.heaviest(v) <= w < reach.heaviest(v, position) for v, w in behind):
            return what
    return None


def _crossing(op: Op) -> str | None:
    if op.kind == "other":
        return f"the operator `{op.target}` on its shortcut is not known"
    if op.kind == "merge" and not is_concat(op.target):
        return f"its shortcut is itself a sum, `{op.name}`"
    if op.kind == "product" and op_info(op.target).matrix_product:
        return f"its shortcut is mixed by a matrix that depends on the data, in `{op.name}`"
    return None


def _apart(op: Op, reason: Reason, detail: str) -> Apart:
    return Apart(op.name, op.module, reason, detail, op.source)
