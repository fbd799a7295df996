"""The way along one shortcut as a function that can be computed again: from the fork's value to the merge's.

Nothing here knows what `find` thinks of an operator: the way is all that depends on the fork and on which the
operand depends, by reachability in the graph alone.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from skiplab.analysis.merges import merge_at
from skiplab.analysis.skips import Skip
from skiplab.graph.functionalize import viewed_operand
from skiplab.graph.program import Program
from skiplab.verification.random_inputs import call

Values = Mapping[Node, Any]


class NoRouteError(Exception):
    """The record describes no way through this graph; the message says why."""


class Graph:
    """A program's nodes by name and in order.

    Attributes:
        learned: what is computed from parameters alone.
        overwritten: what is written to in place by an operator that the data flow could not follow, and what that
            is a view of, with this operator.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        nodes = list(program.graph.graph.nodes)
        self.nodes = {node.name: node for node in nodes}
        self.position = {node: position for position, node in enumerate(nodes)}
        self.overwritten: dict[Node, Node] = {}
        for write in (self.nodes[name] for name in program.unfollowed):
            written = write.args[0]
            while isinstance(written, Node):
                self.overwritten[written] = write
                written = viewed_operand(written)
        self.learned: set[Node] = set()
        data: set[Node] = set()
        for node in nodes:
            if node.name in program.inputs or any(n in data for n in node.all_input_nodes):
                data.add(node)
            elif node.name in program.parameters or any(n in self.learned for n in node.all_input_nodes):
                self.learned.add(node)

    def node(self, name: str) -> Node:
        if name not in self.nodes:
            raise NoRouteError(f"there is no node `{name}` in the graph")
        return self.nodes[name]


@dataclass(frozen=True, slots=True, eq=False)
class Route:
    """The way of one skip's signal.

    Attributes:
        fork: where it starts.
        starts: what is varied: the fork, or where its value is a list or holds integers, the first real tensors
            that the way computes of it.
        steps: what is computed again between those and the operand, in order.
        operand: the end of the shortcut.
        chain: the additions from the one that reads the operand to the merge.
    """

    fork: Node
    starts: tuple[Node, ...]
    steps: tuple[Node, ...]
    operand: Node
    chain: tuple[Node, ...]

    @property
    def frozen(self) -> set[Node]:
        """All that is read on the way and not computed again; in the merge this may be the operand itself."""
        own = {*self.starts, *self.steps}
        on_way = {n for step in self.steps for n in step.all_input_nodes if n not in own}
        return on_way | {n for step in self.chain for n in step.all_input_nodes if n not in self.chain}

    @property
    def needed(self) -> set[Node]:
        """Nodes whose values must be recorded; the merge's says that all the others are there."""
        return {self.fork, *self.starts, *self.frozen, self.end}

    @property
    def end(self) -> Node:
        """The merge."""
        return self.chain[-1]

    def __call__(self, values: Values, starts: Sequence[Tensor]) -> Tensor:
        """The merge's value for these values of `starts`, everything beside the way being as in `values`."""
        return self.onward(values, self.inside(values, starts)[self.operand])

    def inside(self, values: Values, starts: Sequence[Tensor]) -> dict[Node, Any]:
        """The values on the way, the operand's included."""
        own: dict[Node, Any] = dict(zip(self.starts, starts, strict=True))
        for step in self.steps:
            own[step] = evaluate(step, lambda node: own[node] if node in own else values[node])
        return own

    def onward(self, values: Values, carried: Tensor) -> Tensor:
        """The merge's value when its one operand has the value `carried`."""
        before = self.operand
        for step in self.chain:
            varied = [before]  # of an operand that the merge reads twice, one edge is the shortcut

            def value(node: Node, varied: list[Node] = varied, carried: Tensor = carried) -> Any:
                return carried if varied and node is varied[0] and varied.pop() else values[node]

            carried, before = evaluate(step, value), step
        return carried


def evaluate(node: Node, value: Callable[[Node], Any]) -> Any:
    """A node's value, its operands' being `value(operand)`."""
    args, kwargs = torch.fx.map_arg((node.args, node.kwargs), value)
    return call(node.target, args, kwargs)


def route(graph: Graph, skip: Skip) -> Route:
    """The way of a skip; NoRouteError where the record names none."""
    fork, operand = graph.node(skip.fork), graph.node(skip.operand)
    chain = _chain(graph.program, graph, skip)
    held = {graph.node(name) for name in skip.gates}
    steps = _between(graph, fork, operand, held)
    if operand is not fork and (not steps or steps[-1] is not operand):
        raise NoRouteError(f"`{skip.operand}` does not depend on `{skip.fork}`")
    for node in (fork, *steps):
        if node in graph.overwritten:
            raise NoRouteError(f"`{graph.overwritten[node].name}` overwrites `{node.name}`, which cannot be followed")
    found = Route(fork, (fork,), steps, operand, chain)
    return found if _is_real(fork) else _started(found)


def _chain(program: Program, graph: Graph, skip: Skip) -> tuple[Node, ...]:
    if skip.merge not in program.by_name:
        raise NoRouteError(f"there is no merge `{skip.merge}`")
    merge = merge_at(program, skip.merge)
    for operand, reader in zip(merge.operands, merge.readers, strict=True):
        if program.ops[operand].name == skip.operand:
            chain = [reader]
            while chain[-1] != merge.op.index:
                chain += program.users[chain[-1]]  # nothing else reads an inner addition of a chain
            return tuple(graph.nodes[program.ops[index].name] for index in chain)
    raise NoRouteError(f"`{skip.operand}` is no operand of `{skip.merge}`")


def _between(graph: Graph, fork: Node, operand: Node, held: set[Node]) -> tuple[Node, ...]:
    """Nodes that depend on the fork and on which the operand depends, in order, with no way through `held`."""
    first = graph.position[fork]
    behind: set[Node] = set()
    stack = [operand]
    while stack:
        node = stack.pop()
        if graph.position[node] > first and node not in behind and node not in held and _holds_tensors(node):
            behind.add(node)
            stack += node.all_input_nodes
    ahead = {fork}
    for node in sorted(behind, key=graph.position.__getitem__):
        if any(n in ahead for n in node.all_input_nodes):
            ahead.add(node)
    return tuple(sorted(ahead - {fork}, key=graph.position.__getitem__))


def _started(found: Route) -> Route:
    """A route from a list or from integers, begun at the first real tensors that are computed of it."""
    before, starts, steps = {found.fork}, [], []
    for step in found.steps:
        if any(n in starts or n in steps for n in step.all_input_nodes):
            steps.append(step)
        elif _is_real(step):
            starts.append(step)
        else:
            before.add(step)
    if not starts:
        raise NoRouteError(f"`{found.fork.name}` holds no real numbers that could be varied")
    return replace(found, starts=tuple(starts), steps=tuple(steps))


def _is_real(node: Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex())


def _holds_tensors(node: Node) -> bool:
    """Sizes are no data: they stay as they are whatever is varied."""
    return isinstance(node.meta.get("val"), (Tensor, list, tuple))
