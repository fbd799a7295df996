"""One shortcut as a function: from the fork's value to the merge's value.

The function is independent of the kinds of op that `find` uses: it consists of all nodes that depend on the fork and on
which the shortcut's operand depends.
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
    """The record describes no shortcut of this graph; the message says why."""


class Graph:
    """A program's nodes by name and in order.

    Attributes:
        learned: nodes that are computed from parameters alone.
        overwritten: node -> the in-place write to it, or to a view of it, that the data flow could not follow.
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
    """The shortcut of one skip as a function of values.

    Attributes:
        fork: the start of the shortcut.
        starts: the arguments of the function: the fork, or the first real tensors that the shortcut computes from it
            if its value is a list or holds integers.
        steps: the nodes between those and the operand, in order.
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
        """Nodes that are read and not computed again. The operand is one of them if the merge reads it twice."""
        own = {*self.starts, *self.steps}
        on_way = {n for step in self.steps for n in step.all_input_nodes if n not in own}
        return on_way | {n for step in self.chain for n in step.all_input_nodes if n not in self.chain}

    @property
    def needed(self) -> set[Node]:
        """Nodes whose values must be recorded. Once the merge is computed, all of them are."""
        return {self.fork, *self.starts, *self.frozen, self.end}

    @property
    def end(self) -> Node:
        """The merge."""
        return self.chain[-1]

    def __call__(self, values: Values, starts: Sequence[Tensor]) -> Tensor:
        """The merge's value for these values of `starts`; all other nodes have their value in `values`."""
        return self.onward(values, self.inside(values, starts)[self.operand])

    def inside(self, values: Values, starts: Sequence[Tensor]) -> dict[Node, Any]:
        """The values on the shortcut, including the operand."""
        own: dict[Node, Any] = dict(zip(self.starts, starts, strict=True))
        for step in self.steps:
            own[step] = evaluate(step, lambda node: own[node] if node in own else values[node])
        return own

    def onward(self, values: Values, carried: Tensor) -> Tensor:
        """The merge's value if the operand has the value `carried`."""
        before = self.operand
        for step in self.chain:
            varied = [before]  # if the merge reads an operand twice, one edge is the shortcut

            def value(node: Node, varied: list[Node] = varied, carried: Tensor = carried) -> Any:
                return carried if varied and node is varied[0] and varied.pop() else values[node]

            carried, before = evaluate(step, value), step
        return carried


def evaluate(node: Node, value: Callable[[Node], Any]) -> Any:
    """A node's value from the values of its operands."""
    args, kwargs = torch.fx.map_arg((node.args, node.kwargs), value)
    return call(node.target, args, kwargs)


def route(graph: Graph, skip: Skip) -> Route:
    """The shortcut of a skip; NoRouteError where the record names none."""
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
    """Nodes on paths from the fork to the operand, in order; no path crosses `held`."""
    first = graph.position[fork]
    before_operand: set[Node] = set()
    stack = [operand]
    while stack:
        node = stack.pop()
        if graph.position[node] > first and node not in before_operand and node not in held and _holds_tensors(node):
            before_operand.add(node)
            stack += node.all_input_nodes
    after_fork = {fork}
    for node in sorted(before_operand, key=graph.position.__getitem__):
        if any(n in after_fork for n in node.all_input_nodes):
            after_fork.add(node)
    return tuple(sorted(after_fork - {fork}, key=graph.position.__getitem__))


def _started(found: Route) -> Route:
    """A route whose fork is a list or integers, from the first real tensors that are computed from it."""
    before, starts, steps = {found.fork}, [], []
    for step in found.steps:
        if any(n in starts or n in steps for n in step.all_input_nodes):
            steps.append(step)
        elif _is_real(step):
            starts.append(step)
        else:
            before.add(step)
    if not starts:
        raise NoRouteError(f"`{found.fork.name}` holds no real numbers")
    return replace(found, starts=tuple(starts), steps=tuple(steps))


def _is_real(node: Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex())


def _holds_tensors(node: Node) -> bool:
    """Whether a node's value is data: sizes are not, and stay constant."""
    return isinstance(node.meta.get("val"), (Tensor, list, tuple))
