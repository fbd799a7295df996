"""`broadcast-merge`: sums whose operands' shapes match only by unintended broadcasting."""

from collections.abc import Iterator

from skiplab.analysis.backtrace import trace_chain
from skiplab.analysis.merges import Merge, merges
from skiplab.analysis.reachability import MergeReachability
from skiplab.errors import format_shape
from skiplab.graph.ops import is_concat
from skiplab.graph.program import Op, Program
from skiplab.linter.finding import Finding
from skiplab.linter.rule import LintContext, Rule


def _check(context: LintContext) -> Iterator[Finding]:
    """Sums that are larger than each operand, and sums that broadcast what would be the shortcut."""
    program = context.program
    with_skip = {skip.merge for skip in context.skips}
    for merge in merges(program):
        if is_concat(merge.op.target):
            continue
        no_skip = merge.op.name not in with_skip  # at a skip's merge, a mean over positions is added on purpose
        for op in (program.ops[index] for index in dict.fromkeys((*merge.readers, merge.op.index))):
            what = _different_ranks(program, op, no_skip) if len(op.inputs) == 2 else None
            if what is not None:
                yield _finding(op, what)
        what = _broadcast_shortcut(program, merge) if no_skip else None
        if what is not None:
            yield _finding(merge.op, what)


def _different_ranks(program: Program, op: Op, no_skip: bool) -> str | None:
    """Describes operands of different ranks whose sum is larger than both, or that are branch and shortcut."""
    low, high = sorted((program.ops[i] for i in op.inputs), key=lambda each: len(each.shape))
    if not low.shape or len(low.shape) == len(high.shape):
        return None
    sizes = f"{format_shape(low.shape)} and {format_shape(high.shape)}"
    if op.shape != high.shape:
        return f"operands of shapes {sizes} broadcast to {format_shape(op.shape)}, larger than both"
    merge = Merge(op, (low.index, high.index), (op.index, op.index))
    rank = len(op.shape)
    if (no_skip and _is_shortcut(program, merge, 0, rank)) or _is_shortcut(program, merge, 1, rank):
        return f"branch and shortcut are of different ranks, {sizes}, so one is added to every entry of the other"
    return None


def _is_shortcut(program: Program, merge: Merge, position: int, rank: int) -> bool:
    """Whether an operand traces back to a value of the sum's rank that the other one depends on by more layers."""
    steps = list(trace_chain(program, merge.operands[position]))
    reachability = _reachability_of_others(program, merge, position, min(step.value for step in steps))
    return any(
        reachability.most_weights(step.value) > step.weights and len(program.ops[step.value].shape) == rank
        for step in steps
    )


def _broadcast_shortcut(program: Program, merge: Merge) -> str | None:
    """Describes a weight-free operand that starts from a value of the sum's shape, and is smaller at the merge."""
    for position, operand in enumerate(merge.operands):
        shape = program.ops[operand].shape
        if shape == merge.op.shape or len(shape) != len(merge.op.shape):
            continue
        values = [step.value for step in trace_chain(program, operand) if not step.weights]
        reachability = _reachability_of_others(program, merge, position, min(values))
        if any(reachability.most_weights(i) > 0 and program.ops[i].shape == merge.op.shape for i in values):
            smaller, larger = format_shape(shape), format_shape(merge.op.shape)
            return f"the would-be shortcut, of shape {smaller}, is broadcast to {larger}"
    return None


def _reachability_of_others(program: Program, merge: Merge, position: int, least: int) -> MergeReachability:
    return MergeReachability(program, merge.other_operands(position), least)


def _finding(op: Op, what: str) -> Finding:
    return Finding(
        rule=RULE.name,
        path=op.module,
        source=op.source,
        what=what,
        why="The network raises no error and trains, but the sum combines unrelated entries, such as those of "
        "different samples.",
        fix="give both operands one shape before the sum (`squeeze`, `unsqueeze`, `keepdim=True`, `flatten(1)`); "
        "if broadcasting is intended, write `expand_as`",
        reference="PyTorch documentation, Broadcasting semantics",
    )


RULE = Rule(
    name="broadcast-merge",
    summary="a sum whose shapes match only by unintended broadcasting",
    check=_check,
)
