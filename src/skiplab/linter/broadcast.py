"""`broadcast-merge`: sums whose operands' shapes fit each other only by broadcasting that nobody asked for."""

from collections.abc import Iterator

from skiplab.analysis.merges import Merge, merges
from skiplab.analysis.reachability import Reach
from skiplab.analysis.skips import Skips
from skiplab.graph.ops import is_concat
from skiplab.graph.program import Op, Program
from skiplab.linter.finding import Finding
from skiplab.linter.ways import others, walk


def broadcast_merges(program: Program, skips: Skips) -> Iterator[Finding]:
    """Sums that become larger than each operand, or whose shortcut is spread over what it does not belong to."""
    with_skip = {skip.merge for skip in skips}
    for merge in merges(program):
        if is_concat(merge.op.target):
            continue
        alone = merge.op.name not in with_skip  # beside a skip, a mean of all positions is something added on purpose
        for index in dict.fromkeys((*merge.readers, merge.op.index)):
            op = program.ops[index]
            what = _ranks(program, op, alone) if len(op.inputs) == 2 else None
            if what is not None:
                yield _finding(op, what)
        what = _spread_shortcut(program, merge) if alone else None
        if what is not None:
            yield _finding(merge.op, what)


def _ranks(program: Program, op: Op, alone: bool) -> str | None:
    """Operands of different rank, where that makes the sum larger than both or meets a branch with its shortcut."""
    low, high = sorted((program.ops[i] for i in op.inputs), key=lambda each: len(each.shape))
    if not low.shape or len(low.shape) == len(high.shape):
        return None
    sizes = f"{_text(low.shape)} and {_text(high.shape)}"
    if op.shape != high.shape:
        return f"operands of shapes {sizes} broadcast to {_text(op.shape)}, larger than both"
    merge = Merge(op, (low.index, high.index), (op.index, op.index))
    if (alone and _light(program, merge, 0, len(op.shape))) or _light(program, merge, 1, len(op.shape)):
        return f"branch and shortcut are of different rank, {sizes}, so that one is added to every entry of the other"
    return None


def _light(program: Program, merge: Merge, position: int, rank: int) -> bool:
    """Whether an operand leads back by the light way to a value of the sum's rank that the other one depends on."""
    steps = list(walk(program, merge.operands[position]))
    reach = Reach(program, others(merge, position), min(step.value for step in steps))
    return any(reach.heaviest(s.value) > s.weights and len(program.ops[s.value].shape) == rank for s in steps)


def _spread_shortcut(program: Program, merge: Merge) -> str | None:
    """A weight-free operand that was as large as the sum where it forked off, and is now one number for many."""
    for position, operand in enumerate(merge.operands):
        shape = program.ops[operand].shape
        if shape == merge.op.shape or len(shape) != len(merge.op.shape):
            continue
        steps = [s for s in walk(program, operand) if not s.weights]
        reach = Reach(program, others(merge, position), min(step.value for step in steps))
        if any(reach.heaviest(s.value) > 0 and program.ops[s.value].shape == merge.op.shape for s in steps):
            return f"what would be the shortcut, of shape {_text(shape)}, is broadcast to {_text(merge.op.shape)}"
    return None


def _text(shape: tuple[int | None, ...]) -> str:
    """ "(N, 5, 8)"; a size that varies is the batch's."""
    return (
        "(" + ", ".join("N" if size is None else str(size) for size in shape) + ("," if len(shape) == 1 else "") + ")"
    )


def _finding(op: Op, what: str) -> Finding:
    return Finding(
        rule="broadcast-merge",
        path=op.module,
        source=op.source,
        what=what,
        why="Nothing fails, and the network trains: but entries meet that have nothing to do with each other, such as "
        "one sample's with another's.",
        mend="bring both operands to one shape before the sum (`squeeze`, `unsqueeze`, `keepdim=True`, `flatten(1)`); "
        "if broadcasting is meant, write it out with `expand_as`",
        reference="PyTorch documentation, Broadcasting semantics",
    )
