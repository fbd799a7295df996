"""The merges of a program: additions and concatenations of data. A chain of additions is one merge."""

from dataclasses import dataclass

from skiplab.graph.ops import is_concat, op_info
from skiplab.graph.program import Op, Program


@dataclass(frozen=True, slots=True)
class Merge:
    """An n-ary merge; a chain of additions counts as one.

    Attributes:
        op: the last addition of the chain, whose value is the sum.
        operands: indices of the joined ops.
        readers: for each operand, the op of the chain that reads it.
    """

    op: Op
    operands: tuple[int, ...]
    readers: tuple[int, ...]

    def takes_whole(self, program: Program, operand: int) -> bool:
        """Whether the merge reads each entry of an operand once; false for an operand that a sum broadcasts."""
        return is_concat(self.op.target) or program.ops[operand].shape == self.op.shape

    def other_operands(self, position: int) -> list[int]:
        """The operands except the one at `position`, wherever that value occurs."""
        return [operand for operand in self.operands if operand != self.operands[position]]


def merge_at(program: Program, name: str) -> Merge:
    """The merge whose value is the node `name`, with all its operands."""
    return _flattened(program, program.by_name[name])


def merges(program: Program) -> tuple[Merge, ...]:
    """All merges in order of execution, except sums of attention scores with a mask or a position bias."""
    inner: set[int] = set()
    found = []
    for op in reversed(program.ops):
        if op.kind == "merge" and op.index not in inner:
            merge = _flattened(program, op)
            inner.update(merge.readers)
            if not _is_attention_score(program, merge):
                found.append(merge)
    return tuple(reversed(found))


def _flattened(program: Program, op: Op) -> Merge:
    """Unfolds additions that only the next addition reads."""
    operands: list[int] = []
    readers: list[int] = []
    stack = [(operand, op.index) for operand in reversed(op.inputs)]
    while stack:
        operand, reader = stack.pop()
        below = program.ops[operand]
        chained = below.kind == "merge" and not is_concat(op.target) and not is_concat(below.target)
        if (
            chained
            and program.users[operand] == (reader,)
            and operand not in program.outputs
            and below.shape == op.shape
        ):
            stack += [(each, operand) for each in reversed(below.inputs)]
        else:
            operands.append(operand)
            readers.append(reader)
    return Merge(op, tuple(operands), tuple(readers))


def _is_attention_score(program: Program, merge: Merge) -> bool:
    """Whether a merge adds a mask or a position bias to a product of queries and keys before a softmax."""
    users = program.users[merge.op.index]
    while len(users) == 1 and program.ops[users[0]].kind == "view":
        users = program.users[users[0]]
    to_softmax = bool(users) and all(op_info(program.ops[user].target).softmax for user in users)
    return to_softmax and any(_is_product(program, operand) for operand in merge.operands)


def _is_product(program: Program, index: int) -> bool:
    op = program.ops[index]
    while op.kind in ("view", "resample") and len(op.inputs) == 1:
        op = program.ops[op.inputs[0]]
    return op.kind == "product"
