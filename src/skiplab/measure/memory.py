"""How long each value of a pass stays in memory, and how many bytes that takes: from the graph alone."""

import math
import operator
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor
from torch.fx import Node

from skiplab.data.bound_batches import sample_count
from skiplab.graph.functionalize import viewed_operand
from skiplab.graph.interpreter import Edge
from skiplab.graph.program import Program

_Storage = tuple[Node, int]  # what makes it, and which of the tensors that it makes


@dataclass(frozen=True, slots=True)
class Life:
    """One piece of memory, which all views of a value share.

    Attributes:
        name: the node that allocates it.
        born: position in the graph of that node.
        dies: position of the last node that reads it or a view of it; of the output node for returned values.
        bytes: its size, for as many samples as `samples(program)` says.
    """

    name: str
    born: int
    dies: int
    bytes: int


def peak_bytes(program: Program) -> int:
    """The largest sum of live activations' bytes for one sample.

    An activation lives from the node that computes it to the last that reads it or a view of it, and an input until
    its last reader. Not counted are parameters, buffers, constants, workspace of operators, and what autograd keeps
    for a backward pass. For a program of one fixed batch size, it is that batch's peak divided by its samples.
    """
    return int(live_bytes(program).max())


def live_bytes(program: Program, without: Collection[Edge] = ()) -> np.ndarray:
    """Bytes for one sample that are alive while each node runs; shape (nodes of the graph,).

    without: edges (reader, operand) to cut; values without another reader are then not computed.
    """
    change = np.zeros(len(program.nodes) + 1, dtype=np.int64)
    for life in lives(program, without):
        change[life.born] += life.bytes
        change[life.dies + 1] -= life.bytes
    return change.cumsum()[:-1] // samples(program)


def lives(program: Program, without: Collection[Edge] = ()) -> list[Life]:
    """The life of every activation, in the order of birth; see `live_bytes`."""
    nodes, cut = list(program.nodes.values()), frozenset(without)
    position = {node: index for index, node in enumerate(nodes)}
    skipped = _unread(nodes, cut)
    storages: dict[Node, tuple[_Storage, ...]] = {}
    sizes: dict[_Storage, int] = {}
    dies: dict[_Storage, int] = {}
    for node in nodes:
        storages[node] = () if node in skipped else tuple(_storages(node, storages))
        for number, storage in enumerate(storages[node]):
            if storage[0] is node:
                sizes[storage] = _bytes(_values(node)[number])
            readers = [r for r in node.users if r not in skipped and (r.name, node.name) not in cut]
            last = max((position[reader] for reader in readers), default=position[node])
            dies[storage] = max(dies.get(storage, 0), last)
    return [Life(s[0].name, position[s[0]], dies[s], size) for s, size in sizes.items() if size]


def samples(program: Program) -> int:
    """How many samples the sizes in the graph are for: one, unless the batch size is fixed."""
    if program.dynamic_batch:
        return 1
    return sample_count(program, program.flatten(*program.example))


def _unread(nodes: list[Node], cut: frozenset[Edge]) -> set[Node]:
    """Nodes that were read, and no longer are once the edges are cut."""
    unread: set[Node] = set()
    for node in reversed(nodes) if cut else ():
        if node.users and all(user in unread or (user.name, node.name) in cut for user in node.users):
            unread.add(node)
    return unread


def _storages(node: Node, known: dict[Node, tuple[_Storage, ...]]) -> Iterator[_Storage]:
    """The memory of a node's value; none for parameters and constants, and for views of them."""
    if node.op not in ("placeholder", "call_function") or node.meta.get("lifted"):
        return
    whole = viewed_operand(node)
    if whole is not None:
        yield from known[whole]
    elif node.target is operator.getitem and isinstance(node.args[0], Node):
        made = known[node.args[0]]
        yield from made[node.args[1] : node.args[1] + 1]  # type: ignore[operator]
    else:
        yield from ((node, number) for number in range(len(_values(node))))


def _values(node: Node) -> list[Any]:
    """The tensors, sizes or numbers that a node returns, as the graph records them: without data."""
    value = node.meta.get("val")
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _bytes(value: Any) -> int:
    """Bytes of a tensor, with a free batch size as 1; 0 for anything else."""
    if not isinstance(value, Tensor):
        return 0
    return math.prod(_size(size) for size in value.shape) * value.element_size()


def _size(size: Any) -> int:
    if isinstance(size, int):
        return size
    expression = size.node.expr  # of the batch size, the only free one
    return int(expression.subs(dict.fromkeys(expression.free_symbols, 1)))
