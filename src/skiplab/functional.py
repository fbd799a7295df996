"""Rewrite in-place operators of an exported graph as out-of-place ones.

`torch.export` keeps `relu_` and `x[:, 0] = y` as they were written. After this pass a node's value never
changes once computed, so that values can be recorded, patched and resumed from, and every later reader of an
overwritten value visibly depends on the write. Buffers that a model updates (BatchNorm's counters) are left
alone: they are state, not data.

`run_decompositions` does this too, but is super-linear in the size of the graph and loses the operators' names.
"""

import operator
from collections.abc import Callable

import torch
from torch.fx import Graph, Node

aten = torch.ops.aten

_FUNCTIONAL_NAME = {"normal_": "normal_functional"}

_RESHAPES = frozenset(
    "view _unsafe_view reshape flatten unflatten squeeze unsqueeze contiguous to alias view_as reshape_as "
    "_reshape_alias detach ravel".split()
)


def functionalise(graph: Graph) -> tuple[str, ...]:
    """Rewrite `graph` in place; returns the names of writes that could not be followed (kept as they were)."""
    return _Functionaliser(graph).run()


class _Functionaliser:
    """Follows, node by node, which graph node holds the present value of each tensor.

    Tensors that share memory form a family with one version number, raised by each write. A view whose
    version is behind its family's is taken again from the present base when it is next read.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.same: dict[Node, Node] = {}  # the result of a write -> the tensor that was written
        self.base: dict[Node, Node] = {}  # a view -> what it was taken of
        self.present: dict[Node, Node] = {}
        self.version: dict[Node, int] = {}  # root of a family -> number of writes so far
        self.seen_at: dict[Node, int] = {}  # node -> its family's version when `present` was set
        self.unfollowed: list[str] = []

    def run(self) -> tuple[str, ...]:
        state = {n for n in self.graph.nodes if n.op == "get_attr" or n.meta.get("lifted")}
        for node in list(self.graph.nodes):
            written, viewed = _written_operand(node), _viewed_operand(node)
            with self.graph.inserting_before(node):
                node.args, node.kwargs = torch.fx.map_arg((node.args, node.kwargs), self.current)
            if written is not None and self.root(written) not in state and self.write(node, written):
                self.same[node] = self.same.get(written, written)
                continue
            if viewed is not None:
                self.base[node] = self.same.get(viewed, viewed)
            self._hold(node, node)
        return tuple(self.unfollowed)

    def root(self, node: Node) -> Node:
        node = self.same.get(node, node)
        while node in self.base:
            node = self.base[node]
        return node

    def current(self, node: Node) -> Node:
        """The graph node that now holds `node`'s value."""
        node = self.same.get(node, node)
        if self.seen_at[node] != self.version.get(self.root(node), 0):
            stale, base = _viewed_operand(node), self.current(self.base[node])
            again = self.graph.node_copy(node, lambda operand: base if operand is stale else operand)
            again.meta = dict(node.meta)
            self._hold(node, again)
        return self.present[node]

    def write(self, node: Node, written: Node) -> bool:
        """`node` overwrites `written`: rename its later readers, and rebuild what `written` is a view of."""
        written = self.same.get(written, written)
        target, chain = _functional_target(node), self._chain(written)
        if target is None or not all(_can_scatter(view) for view, _ in chain):
            self.unfollowed.append(node.name)
            return False
        before = {base: self.current(base) for _, base in chain}
        node.target = target
        root = self.root(written)
        self.version[root] = self.version.get(root, 0) + 1
        self._hold(written, node)
        value, after = node, node.next
        for view, base in chain:
            with self.graph.inserting_before(after):
                value = _scatter(self.graph, view, before[base], value)
            value.meta = {**node.meta, "val": before[base].meta.get("val")}
            self._hold(base, value)
        return True

    def _chain(self, view: Node) -> list[tuple[Node, Node]]:
        """From a view to its root, a pair (view, base) a step; the list of parts of a split is no step."""
        chain = []
        while view in self.base:
            base = self.base[view]
            if view.target is operator.getitem:
                base = self.base[base]
            chain.append((view, base))
            view = base
        return chain

    def _hold(self, node: Node, value: Node) -> None:
        self.present[node] = value
        self.seen_at[node] = self.version.get(self.root(node), 0)


def _written_operand(node: Node) -> Node | None:
    schema = getattr(node.target, "_schema", None)
    if schema is None or not schema.is_mutable:
        return None
    for index, argument in enumerate(schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            operand = node.args[index] if index < len(node.args) else node.kwargs.get(argument.name)
            return operand if isinstance(operand, Node) else None
    return None


def _viewed_operand(node: Node) -> Node | None:
    """The operand whose memory the result of a view operator shares."""
    if node.target is operator.getitem:
        source = node.args[0]
        return source if isinstance(source, Node) and _viewed_operand(source) is not None else None
    schema = getattr(node.target, "_schema", None)
    if schema is None or schema.is_mutable:
        return None
    for operand, argument in zip(node.args, schema.arguments, strict=False):
        if argument.alias_info is not None and isinstance(operand, Node):
            return operand
    return None


def _functional_target(node: Node) -> Callable | None:
    if not isinstance(node.target, torch._ops.OpOverload):
        return None
    name = node.target._schema.name.split("::")[-1]
    packet = getattr(aten, _FUNCTIONAL_NAME.get(name, name.removesuffix("_")), None)
    overload = node.target._overloadname
    if packet is None or not name.endswith("_"):
        return None
    return getattr(packet, overload) if overload in packet.overloads() else None


def _view_name(view: Node) -> str:
    schema = getattr(view.target, "_schema", None)
    return "getitem" if schema is None else schema.name.split("::")[-1]


def _can_scatter(view: Node) -> bool:
    name = _view_name(view)
    if name == "getitem":
        return isinstance(view.args[0], Node) and _view_name(view.args[0]) in ("unbind", "split", "chunk")
    return name in _RESHAPES or name in ("slice", "select", "transpose", "permute", "t")


def _scatter(graph: Graph, view: Node, base: Node, value: Node) -> Node:
    """The base with `value` written where `view` looked: the view's inverse."""
    name, rest = _view_name(view), view.args[1:]
    if name in _RESHAPES:
        return graph.call_function(aten.reshape_as.default, (value, base))
    if name == "slice":
        return graph.call_function(aten.slice_scatter.default, (base, value, *rest))
    if name == "select":
        return graph.call_function(aten.select_scatter.default, (base, value, *rest))
    if name in ("transpose", "t"):
        return graph.call_function(aten.transpose.int, (value, *(rest or (0, 1))))
    if name == "permute":
        order = [dim % len(rest[0]) for dim in rest[0]]  # pyright: ignore
        return graph.call_function(aten.permute.default, (value, [order.index(i) for i in range(len(order))]))
    return _scatter_part(graph, view, base, value)


def _scatter_part(graph: Graph, view: Node, base: Node, value: Node) -> Node:
    """Writes one part of an unbind, split or chunk back."""
    parts, index = view.args
    assert isinstance(parts, Node)
    assert isinstance(index, int)
    position = 1 if _view_name(parts) == "unbind" else 2
    dim = parts.args[position] if len(parts.args) > position else parts.kwargs.get("dim", 0)
    if position == 1:
        return graph.call_function(aten.select_scatter.default, (base, value, dim, index))
    sizes = [part.shape[dim] for part in parts.meta["val"]]
    start = sum(sizes[:index])
    return graph.call_function(aten.slice_scatter.default, (base, value, dim, start, start + sizes[index]))
