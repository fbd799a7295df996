"""The merges of a program: additions and concatenations of data, chains of additions taken as one."""

from collections.abc import Iterator
from dataclasses import dataclass

from skiplab.graph.ops import is_concat
from skiplab.graph.program import Op, Program


@dataclass(frozen=True, slots=True)
class Merge:
    """An n-ary merge: a chain of additions counts as one.

    Attributes:
        op: the last addition of the chain, whose value is the sum.
        operands: indices of the ops that are joined.
        readers: for each operand, the op of the chain that reads it.
    """

    op: Op
    operands: tuple[int, ...]
    readers: tuple[int, ...]

    def takes_whole(self, program: Program, operand: int) -> bool:
        """Whether each entry of an operand is met once: one that is broadcast into a sum carries nothing past."""
        return is_concat(self.op.target) or program.ops[operand].shape == self.op.shape


def merge_at(program: Program, name: str) -> Merge:
    """The merge whose value is the node `name`, with all its operands."""
    return _flattened(program, program.by_name[name])


def merges(program: Program) -> Iterator[Merge]:
    inner: set[int] = set()
    for op in reversed(program.ops):
        if op.kind == "merge" and op.index not in inner:
            merge = _flattened(program, op)
            inner.update(merge.readers)
            if not _is_attention_score(program, merge):
                yield merge


def _flattened(program: Program, op: Op) -> Merge:
    """Unfolds additions that nothing but the next addition reads."""
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
    """A product of queries and keys with a mask or a position bias added, on its way to a softmax."""
    users = program.users[merge.op.index]
    while len(users) == 1 and program.ops[users[0]].kind == "view":
        users = program.users[users[0]]
    to_softmax = bool(users) and all("softmax" in program.ops[user].target for user in users)
    return to_softmax and any(_is_product(program, operand) for operand in merge.operands)


def _is_product(program: Program, index: int) -> bool:
    op = program.ops[index]
    while op.kind in ("view", "resample") and len(op.inputs) == 1:
        op = program.ops[op.inputs[0]]
    return op.kind == "product"
