"""Rewrite in-place operators of an exported graph as out-of-place ones.

`torch.export` keeps `relu_` and `x[:, 0] = y` as written. After this pass a node's value never changes once computed,
so that values can be recorded and patched and a run can be forked; and every later reader of an overwritten value
depends on the write. Writes to a model's buffers (batch norm's counters) stay: they are state, not data.

`run_decompositions` does this too, but takes more than linear time and loses the operators' names.
"""

import operator
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node

from skiplab.graph.op_table import WriteBack
from skiplab.graph.ops import is_active_dropout, op_info, operator_name
from skiplab.graph.torch_compat import FakeTensorMode, schema_of, storage_id

aten = torch.ops.aten

_SCATTERS: dict[WriteBack | None, Any] = {
    "slice": aten.slice_scatter.default,
    "select": aten.select_scatter.default,
    "diagonal": aten.diagonal_scatter.default,
}
_WHOLE: tuple[WriteBack | None, ...] = ("reshape", "same", "permute", "movedim")  # views of all entries


def functionalize(graph: Graph) -> tuple[tuple[str, ...], dict[str, tuple[str, ...]]]:
    """Rewrites `graph` in place.

    Returns:
        The names of the writes that could not be followed and stay in place; and for each followed write the views
        that were taken before it and are read after it, so that they show what was written. (A graph does not show
        whether a later reader used the name of the written tensor or of the result: the two are one tensor.)
    """
    walk = _Functionalizer(graph)
    walk.run()
    return tuple(walk.unfollowed), {write: tuple(views) for write, views in walk.overwritten.items()}


class _Functionalizer:
    """Follows, node by node, which graph node holds the current value of each tensor.

    Tensors that share memory form a family with one version number, which each write raises. A view with an older
    version than its family is taken again, from the current base, when it is next read.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.same: dict[Node, Node] = {}  # the result of a write -> the tensor that was written
        self.base: dict[Node, Node] = {}  # a view -> the tensor it is a view of
        self.present: dict[Node, Node] = {}
        self.version: dict[Node, int] = {}  # root of a family -> number of writes so far
        self.seen_at: dict[Node, int] = {}  # node -> its family's version when `present` was set
        self.unfollowed: list[str] = []
        self.writes: dict[Node, list[tuple[Node, Node]]] = {}  # root of a family -> (write, what it wrote to)
        self.overwritten: dict[str, list[str]] = {}  # a write -> older views that are read after it

    def run(self) -> None:
        original = list(self.graph.nodes)
        state = {n for n in original if n.op == "get_attr" or n.meta.get("lifted")}
        for node in original:
            written, viewed = _written_operand(node), viewed_operand(node)
            with self.graph.inserting_before(node):
                node.args, node.kwargs = torch.fx.map_arg((node.args, node.kwargs), self.current)
            if written is not None and self.root(written) not in state:
                self.same[node] = self.same.get(written, written)
                if not self.write(node, self.same[node]):
                    self.unfollowed.append(node.name)
                continue
            if viewed is not None:
                self.base[node] = self.same.get(viewed, viewed)
            self._hold(node, node)
        for node in [n for n in reversed(self.graph.nodes) if n not in self.seen_at and n not in self.same]:
            if not node.users:
                self.graph.erase_node(node)

    def root(self, node: Node) -> Node:
        node = self.same.get(node, node)
        while node in self.base:
            node = self.base[node]
        return node

    def current(self, node: Node) -> Node:
        """The graph node that now holds `node`'s value."""
        node = self.same.get(node, node)
        if self.seen_at[node] != self.version.get(self.root(node), 0):
            stale, base = node.args[0], self.current(self.base[node])
            again = self.graph.node_copy(node, lambda operand: base if operand is stale else operand)
            again.meta = dict(node.meta)
            for write, written in self.writes[self.root(node)][self.seen_at[node] :]:
                if self._shows(node, written):
                    self.overwritten[write.name].append(again.name)
            self._hold(node, again)
        return self.present[node]

    def write(self, node: Node, written: Node) -> bool:
        """Makes `node`, which overwrites `written`, functional, and rebuilds the tensors `written` is a view of.

        Returns False where that is not possible.
        """
        target, chain = _functional_target(node), self._chain(written)
        if target is None or not all(_can_scatter(view) for view, _ in chain):
            return False
        if op_info(node).shape_in_place and (written in self.base or written in self.base.values()):
            return False  # its views cannot be taken again from a base of another shape
        before = {base: self.current(base) for _, base in chain}
        dtype = node.meta["val"].dtype
        node.args, node.target = _all_arguments(node), target
        value = self._cast(node, dtype)
        root = self.root(written)
        self.version[root] = self.version.get(root, 0) + 1
        self.writes.setdefault(root, []).append((node, written))
        self.overwritten[node.name] = []
        self._hold(written, value)
        after = value.next
        for view, base in chain:
            with self.graph.inserting_before(after):
                value = _scatter(self.graph, view, before[base], value)
            value.meta = {**node.meta, "val": before[base].meta.get("val")}
            self._hold(base, value)
        return True

    def _cast(self, node: Node, dtype: torch.dtype) -> Node:
        """A write keeps the written tensor's dtype, which the functional operator may promote."""
        result = fake_value(node)
        if not isinstance(result, Tensor) or result.dtype == dtype:
            return node
        with self.graph.inserting_after(node):
            value = self.graph.call_function(aten.to.dtype, (node, dtype))
        value.meta = dict(node.meta)
        return value

    def _chain(self, view: Node) -> list[tuple[Node, Node]]:
        """The steps (view, base) from a view to its root; a part of a split is one step from the split tensor."""
        chain = []
        while view in self.base:
            base = self.base[view]
            if view.target is operator.getitem:
                base = self.base[base]
            chain.append((view, base))
            view = base
        return chain

    def _shows(self, view: Node, written: Node) -> bool:
        """Whether a view is sure to show a write to one of its family; of two parts of a split it is not."""
        whole = all(op_info(step).write_back in _WHOLE for step, _ in self._chain(written))
        return whole or written in (base for _, base in self._chain(view))

    def _hold(self, node: Node, value: Node) -> None:
        self.present[node] = value
        self.seen_at[node] = self.version.get(self.root(node), 0)


def viewed_operand(node: Node) -> Node | None:
    """The operand whose memory the result shares. `reshape` and `to` may copy: their fake values decide."""
    operand = node.args[0] if node.args else None
    if not isinstance(operand, Node):
        return None
    if node.target is operator.getitem:
        return operand if viewed_operand(operand) is not None else None
    schema = schema_of(node.target)
    if schema is None or schema.is_mutable:
        return None
    info = op_info(node)
    if info.dropout and info.write_back is not None:
        return None if is_active_dropout(node) else operand  # an inactive one returns its operand itself
    # the schema of `atleast_3d` does not declare that its result may share memory
    may_share = schema.arguments[0].alias_info is not None or info.write_back is not None
    return operand if may_share and _same_memory(node, operand) else None


def fake_value(node: Node, mode: FakeTensorMode | None = None) -> Any:
    """The result of the node's operator on its operands' fake values: shape and dtype without data.

    Args:
        node: with fake values in `meta["val"]` of its operands.
        mode: the mode of these values; needed where no operand is a tensor.
    """
    args, kwargs = torch.fx.map_arg((node.args, node.kwargs), lambda operand: operand.meta["val"])
    tensors = [n.meta["val"] for n in node.all_input_nodes if isinstance(n.meta.get("val"), Tensor)]
    with mode or tensors[0].fake_mode:
        return node.target(*args, **kwargs)  # type: ignore[operator]


def sizes(node: Node) -> tuple[str, ...]:
    """A tensor's shape as strings, since comparing symbolic sizes would fix them."""
    return tuple(str(size) for size in node.meta["val"].shape)


def form(node: Node) -> tuple[tuple[str, ...], torch.dtype] | None:
    """Shape, as text, and dtype of a node's value; None where that is no tensor."""
    value = node.meta.get("val")
    return (sizes(node), value.dtype) if isinstance(value, Tensor) else None


def _same_memory(node: Node, operand: Node) -> bool:
    value, other = node.meta.get("val"), operand.meta.get("val")
    if not isinstance(value, Tensor) or not isinstance(other, Tensor):
        return True
    return storage_id(value) == storage_id(other)


def _written_operand(node: Node) -> Node | None:
    schema = schema_of(node.target)
    if schema is None or not schema.is_mutable:
        return None
    for index, argument in enumerate(schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            operand = node.args[index] if index < len(node.args) else node.kwargs.get(argument.name)
            return operand if isinstance(operand, Node) else None
    return None


def _functional_target(node: Node) -> Any:
    """The out-of-place operator with the same arguments; None where there is none."""
    name = schema_of(node.target).name.split("::")[-1]
    packet = getattr(aten, "normal_functional" if name == "normal_" else name.removesuffix("_"), None)
    if packet is None or not name.endswith("_"):
        return None
    overloads = [getattr(packet, overload) for overload in packet.overloads()]
    wanted = _signature(node.target)
    return next((overload for overload in overloads if _signature(overload) == wanted), None)


def _signature(target: Any) -> list[str]:
    return [str(argument.type) for argument in schema_of(target).arguments]


def _all_arguments(node: Node) -> tuple[Any, ...]:
    """The positional arguments with their defaults, since those of the out-of-place operator may differ."""
    rest = schema_of(node.target).arguments[len(node.args) :]  # type: ignore[union-attr]
    return (*node.args, *(argument.default_value for argument in rest if not argument.kwarg_only))


def _can_scatter(view: Node) -> bool:
    if view.target is operator.getitem:
        parts = view.args[0]
        return isinstance(parts, Node) and op_info(parts).split_dim is not None
    return op_info(view).write_back is not None


def _split_dimension(parts: Node) -> int:
    position = op_info(parts).split_dim
    assert position is not None
    dim = parts.args[position] if len(parts.args) > position else parts.kwargs.get("dim", 0)
    assert isinstance(dim, int)
    return dim


def _scatter(graph: Graph, view: Node, base: Node, value: Node) -> Node:
    """The base with `value` written to the part that `view` shows: the inverse of the view."""
    if view.target is operator.getitem:
        return _scatter_part(graph, view, base, value)
    how, rest = op_info(view).write_back, view.args[1:]
    if how == "slice" and sizes(view) == sizes(base):
        return value  # `x[:, 0]` is a slice of all rows, and then of one column
    if how in _SCATTERS:
        return graph.call_function(_SCATTERS[how], (base, value, *rest))
    if how == "same":
        return graph.call_function(view.target, (value, *rest))  # type: ignore[arg-type]
    if how == "movedim":
        return graph.call_function(view.target, (value, rest[1], rest[0]))  # type: ignore[arg-type]
    if how == "permute":
        order = [dim % len(rest[0]) for dim in rest[0]]  # type: ignore[arg-type, union-attr]
        return graph.call_function(aten.permute.default, (value, [order.index(i) for i in range(len(order))]))
    if how == "narrow":
        dim, start, length = rest
        if isinstance(start, int) and isinstance(length, int):
            end: Any = start + length or None  # a negative start may reach the end
        else:
            end = graph.call_function(operator.add, (start, length))
        return graph.call_function(aten.slice_scatter.default, (base, value, dim, start, end))
    return graph.call_function(aten.reshape_as.default, (value, base))


def _scatter_part(graph: Graph, view: Node, base: Node, value: Node) -> Node:
    """The base with one part of an unbind, split or chunk replaced."""
    parts, index = view.args
    assert isinstance(parts, Node)
    assert isinstance(index, int)
    if operator_name(parts.target) == "unbind":
        return graph.call_function(aten.select_scatter.default, (base, value, _split_dimension(parts), index))
    again = graph.node_copy(parts, lambda operand: base if operand is parts.args[0] else operand)
    pieces = []
    for i, fake in enumerate(parts.meta["val"]):
        piece = value if i == index else graph.call_function(operator.getitem, (again, i))
        piece.meta = {**view.meta, "val": fake}
        pieces.append(piece)
    return graph.call_function(aten.cat.default, (pieces, _split_dimension(parts)))
