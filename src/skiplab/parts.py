"""Parts of a value that share no entry: the steps of a sequence, the halves of a gated linear unit.

What is carried past a branch must be what the branch works on too. That a recurrent network adds its input at
step t to what it made of the input at step t − 1 is no skip connection from the whole sequence.
"""

from collections.abc import Iterator

from torch import Tensor
from torch.fx import Node

from skiplab.ops import operator_name
from skiplab.program import Op, Program

Position = tuple[int, int, int]  # source, dimension, index
_SPLITS = ("split", "chunk", "unbind")


def position(program: Program, op: Op) -> Position | None:
    """Which single position of which value an op takes, if it does: `x[:, t]`, `x[:, t:t + 1]`, one of `unbind`."""
    node = program.nodes.get(op.name)
    if node is None or len(op.inputs) != 1 or not node.args or not isinstance(node.args[0], Node):
        return None
    source = node.args[0]
    name = operator_name(node.target)
    if name == "select":
        return _at(program, op.inputs[0], source, node.args[1], node.args[2])
    if name == "slice" and op.shape != program.ops[op.inputs[0]].shape:
        dim, start = (*node.args[1:3], 0, 0)[:2]
        return _at(program, op.inputs[0], source, dim, start) if op.shape[_whole(dim) % len(op.shape)] == 1 else None
    if name == "getitem" and operator_name(source.target) == "unbind":
        origin, dim = (*source.args, 0)[:2]
        assert isinstance(origin, Node)
        return _at(program, program.ops[op.inputs[0]].inputs[0], origin, dim, node.args[1])
    return None


def others(program: Program, taken: Position) -> Iterator[int]:
    """The ops that take another position of the same value along the same dimension."""
    rest, seen = [taken[0]], set()
    while rest:
        for user in set(program.users[rest.pop()]) - seen:
            seen.add(user)
            op = program.ops[user]
            at = position(program, op)
            if at is not None and at[:2] == taken[:2] and at[2] != taken[2]:
                yield user
            elif op.target == "unbind" or _is_whole(program, op):
                rest.append(user)


def are_disjoint(program: Program, one: int, other: int) -> bool:
    """Whether two values are computed from parts of one value that share no entry."""
    first, second = _parts(program, one), _parts(program, other)
    return bool(first) and bool(second) and not first & second


def _parts(program: Program, index: int) -> set[int]:
    """The slices of a value from which an op is computed; empty where it is computed from more than slices."""
    parts, rest, seen = set(), [index], set()
    while rest:
        op = program.ops[rest.pop()]
        if op.index in seen:
            continue
        seen.add(op.index)
        if op.target in ("slice", "select", "narrow"):
            parts.add(op.index)
        elif op.kind in ("weight", "recurrent", "input"):
            return set()
        else:
            rest += op.inputs
    return parts if len({_source(program, part) for part in parts}) == 1 else set()


def _source(program: Program, part: int) -> int:
    op = program.ops[program.ops[part].inputs[0]]
    return op.inputs[0] if any(word in op.target for word in _SPLITS) else op.index


def _is_whole(program: Program, op: Op) -> bool:
    """Whether a slice takes all that there is, as the first of the two that `x[:, t]` is made of."""
    return op.target == "slice" and len(op.inputs) == 1 and op.shape == program.ops[op.inputs[0]].shape


def _at(program: Program, source: int, node: Node, dim: object, index: object) -> Position | None:
    """With dimension and index counted from the front where the size is known."""
    value = node.meta.get("val")
    if not isinstance(value, Tensor) or not isinstance(index, int):
        return None
    dim = _whole(dim) % value.ndim
    size = value.shape[dim]
    while _is_whole(program, program.ops[source]):
        source = program.ops[source].inputs[0]
    return source, dim, index % size if isinstance(size, int) else index


def _whole(number: object) -> int:
    assert isinstance(number, int)
    return number
