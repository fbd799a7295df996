"""Parts of a value that share no entry: the steps of a sequence, the halves of a gated linear unit.

A shortcut must carry the value that its branch works on. A recurrent network that adds its input at step t to a
function of the input at step t − 1 has no skip connection from the whole sequence.
"""

import operator
from collections.abc import Iterator

from torch import Tensor
from torch.fx import Node

from skiplab.graph.ops import op_info, operator_name
from skiplab.graph.program import Op, Program

Position = tuple[int, int, int]  # source, dimension, index


def position(program: Program, op: Op) -> Position | None:
    """The single position that an op takes out of a value: `x[:, t]`, `x[:, t:t + 1]`, one part of `unbind`; else None.

    A window of several positions does not count, since it may be a group of channels.
    """
    node = program.nodes.get(op.name)
    if node is None or len(op.inputs) != 1 or not node.args or not isinstance(node.args[0], Node):
        return None
    source = node.args[0]
    if node.target is operator.getitem:
        return _part(program, op, source, node.args[1])
    if op.target == "select":
        return _at(program, op.inputs[0], source, node.args[1], node.args[2])
    if op.target == "slice" and op.shape != program.ops[op.inputs[0]].shape:
        dim, start = (*node.args[1:3], 0, 0)[:2]
        return _at(program, op.inputs[0], source, dim, start) if op.shape[_whole(dim) % len(op.shape)] == 1 else None
    if op.target == "narrow" and node.args[3] == 1:
        return _at(program, op.inputs[0], source, node.args[1], node.args[2])
    return None


def _part(program: Program, op: Op, parts: Node, index: object) -> Position | None:
    """One of the tensors of `unbind`, or of a split into pieces of one position each."""
    info = op_info(parts)
    if not parts.args or not isinstance(parts.args[0], Node) or not info.even_split or info.split_dim is None:
        return None
    dim = parts.args[info.split_dim] if len(parts.args) > info.split_dim else parts.kwargs.get("dim", 0)
    if operator_name(parts.target) != "unbind" and (not op.shape or op.shape[_whole(dim) % len(op.shape)] != 1):
        return None
    return _at(program, program.ops[op.inputs[0]].inputs[0], parts.args[0], dim, index)


def elsewhere(program: Program, taken: Position) -> Iterator[int]:
    """The ops that take another position of the same value along the same dimension."""
    rest, seen = [taken[0]], set()
    while rest:
        for user in set(program.users[rest.pop()]) - seen:
            seen.add(user)
            op = program.ops[user]
            at = position(program, op)
            if at is not None and at[:2] == taken[:2] and at[2] != taken[2]:
                yield user
            elif op_info(op.target).split or _is_whole(program, op):
                rest.append(user)


def are_two_signals(program: Program, one: int, other: int) -> bool:
    """Whether two values are computed from different values, or from parts of one that share no entry."""
    return program.origins[one] != program.origins[other] or _are_disjoint(program, one, other)


Chain = tuple[object, ...]  # a value, and which part of it, of that part, and so on


def _are_disjoint(program: Program, one: int, other: int) -> bool:
    first, second = _parts(program, one), _parts(program, other)
    of = {chain[0] for chain in first | second}
    return bool(first) and bool(second) and len(of) == 1 and not (first & _above(second) or second & _above(first))


def _above(chains: set[Chain]) -> set[Chain]:
    """The parts, and the larger parts that contain them."""
    return {chain[:length] for chain in chains for length in range(1, len(chain) + 1)}


def _parts(program: Program, index: int) -> set[Chain]:
    """The slices that an op is computed from; empty where it is computed from other values too."""
    parts, rest, seen = set(), [index], set()
    while rest:
        op = program.ops[rest.pop()]
        if op.index in seen:
            continue
        seen.add(op.index)
        if op_info(op.target).slice:
            parts.add(_chain(program, op))
        elif op.kind in ("weight", "recurrent", "input"):
            return set()
        else:
            rest += op.inputs
    return parts


def _chain(program: Program, op: Op) -> Chain:
    """The place of a slice in the value it is taken from, in one step or several: of `unbind`, then of `chunk`."""
    keys: list[object] = []
    while _keeps_parts(op) and len(op.inputs) == 1:
        if op_info(op.target).slice and not _is_whole(program, op):
            taken = position(program, op)
            keys.append(op.index if taken is None else taken[1:])
        op = program.ops[op.inputs[0]]
    return (op.index, *reversed(keys))


def _keeps_parts(op: Op) -> bool:
    """Whether a part of an op's value is computed from the same part of its operand, or is a part of that part."""
    info = op_info(op.target)
    elementwise = (info.gate is not None and info.elementwise) or info.multiplication or op.target == "rsub"
    return info.slice or info.split or elementwise


def _is_whole(program: Program, op: Op) -> bool:
    """Whether a slice takes every entry, as the first of the two slices in `x[:, t]` does."""
    return op.target == "slice" and len(op.inputs) == 1 and op.shape == program.ops[op.inputs[0]].shape


def _at(program: Program, source: int, node: Node, dim: object, index: object) -> Position | None:
    """The position with dimension and index counted from the front, where the size is known."""
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
