"""Editing of a copy of a program's graph."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node

from skiplab.errors import UsageError
from skiplab.graph.build import data_flow
from skiplab.graph.functionalize import fake_value, form
from skiplab.graph.interpreter import Edge
from skiplab.graph.program import Program
from skiplab.graph.torch_compat import FakeTensor, FakeTensorMode, is_mutable

aten = torch.ops.aten


class GraphEditor:
    """A copy of a program's graph that edits change, and from which they make a new program.

    Nodes keep their names in the program, so edges and skips refer to the copy too.

    Attributes:
        program: the program, which stays unchanged.
        graph: the copy.
        nodes: the copied nodes by name.
        tensors: placeholder -> tensor.
        mode: the fake mode of the values in the graph, which have shapes and no data.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.graph = Graph()
        new: dict[Node, Node] = {}
        for node in program.graph.graph.nodes:
            new[node] = self.graph.node_copy(node, new.__getitem__)
            new[node].name = node.name  # fx would number names of Python builtins, such as `input`
        self.nodes = {node.name: copy for node, copy in new.items()}
        self.tensors = dict(program.tensors)
        self.mode = _mode(program.graph.graph)
        self._parameters = dict(program.parameters)
        self._buffers = dict(program.buffers)
        self._rewritten: set[str] = set()
        self._taken = _paths([*self._parameters.values(), *self._buffers.values(), *program.removed])
        self._read = _read(self.graph, self.tensors)

    def call(self, before: Node, target: Any, *args: Any, **kwargs: Any) -> Node:
        """A new operator before a node. It gets that node's place in the model's source."""
        with self.graph.inserting_before(before):
            node = self.graph.call_function(target, args, kwargs)
        node.meta = {key: value for key, value in before.meta.items() if key != "lifted"}
        node.meta["val"] = fake_value(node, self.mode)
        return node

    def parameter(self, path: str, name: str, value: Tensor, *, like: Node) -> Node:
        """A new parameter of a module, with dtype and device of a node's value. A name in use gets a number."""
        return self._stored(self._parameters, path, name, nn.Parameter(value.to(_empty_like(like))))

    def buffer(self, path: str, name: str, value: Tensor, *, like: Node) -> Node:
        """A new buffer, like `parameter`; integers keep their dtype."""
        tensor = value.to(_empty_like(like)) if value.is_floating_point() else value.to(_empty_like(like).device)
        return self._stored(self._buffers, path, name, tensor)

    def _stored(self, names: dict[str, str], path: str, name: str, tensor: Tensor) -> Node:
        full = self.free_name(f"{path}.{name}" if path else name)
        with self.graph.inserting_before(next(iter(self.graph.nodes))):
            node = self.graph.placeholder(full.replace(".", "_"))
        node.target = node.name
        node.meta = {"lifted": True, "val": self.mode.from_tensor(tensor, static_shapes=True)}
        names[node.name] = full
        self.tensors[node.name] = tensor
        self._taken |= _paths([full])
        return node

    def free_name(self, name: str) -> str:
        """The name, with a number appended where a tensor or a module has it."""
        numbered = (f"{name}_{i}" for i in range(2, len(self._taken) + 3))
        return name if name not in self._taken else next(each for each in numbered if each not in self._taken)

    def name_of(self, placeholder: Node) -> str:
        """The name of a tensor in the model."""
        return self._names()[placeholder.name]

    def replace_tensor(self, placeholder: str, value: Tensor, *, rewritten: bool = False) -> None:
        """Replaces the value of a parameter or buffer, which may change its shape and keeps dtype and device.

        rewritten: whether the tensor has a new meaning, so that its former value would be wrong in its place.
        """
        old = self.tensors[placeholder]
        self._rewritten |= {self._names()[placeholder]} if rewritten else set()
        value = value.detach().to(old)
        new = nn.Parameter(value, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else value
        for node in self.graph.find_nodes(op="placeholder"):  # tied ones stay tied
            if self.tensors.get(node.name) is old:
                self.tensors[node.name] = new
                node.meta = {**node.meta, "val": self.mode.from_tensor(new, static_shapes=True)}

    def replace(self, old: Node, new: Node) -> None:
        """Redirects all readers of one value to another of the same shape."""
        if form(old) != form(new):
            raise UsageError(f"`{new.name}` has shape {form(new)}, and the readers of `{old.name}` expect {form(old)}")
        old.replace_all_uses_with(new, delete_user_cb=lambda user: user is not new)

    def redirect(self, edge: Edge, new: Node) -> None:
        """Redirects one reader of a value to another value of the same shape."""
        reader, operand = (self.nodes[name] for name in edge)
        wanted, given = form(operand), form(new)
        if wanted is not None and given is not None and wanted[0] != given[0]:
            raise UsageError(f"`{reader.name}` reads {wanted[0]}, and `{new.name}` would give it {given[0]}")
        reader.replace_input_with(operand, new)

    def remove_operands(self, edges: Iterable[Edge]) -> None:
        """Removes operands from merges: a sum loses them, any other merge gets zeros in their place.

        Raises:
            UsageError: where a sum would lose all its operands.
        """
        removed: dict[Node, dict[Node, None]] = {}  # in order, so that new nodes get the same names every time
        for reader, operand in edges:
            removed.setdefault(self.nodes[reader], {})[self.nodes[operand]] = None
        for node in [node for node in self.graph.nodes if _summands(node)]:
            if node in removed and removed[node].keys() >= {*_summands(node)}:  # such as the x + x of x + x + f
                self._remove_sum(node, removed)
        for node in reversed([node for node in self.graph.nodes if node in removed]):  # readers before their operands
            rest = [operand for operand in _summands(node) if operand not in removed[node]]
            if len(rest) == 1 and form(rest[0]) == form(node):
                node.replace_all_uses_with(rest[0])
            elif rest or not _summands(node):
                stay = [each for each in node.all_input_nodes if each not in removed[node]]
                for operand in removed[node]:
                    node.replace_input_with(operand, self.zeros(operand, before=node, others=stay))

    def _remove_sum(self, node: Node, removed: dict[Node, dict[Node, None]]) -> None:
        """Removes a sum without operands from the sum that reads it."""
        user = next(iter(node.users))
        if len(node.users) > 1 or not _summands(user) or form(user) != form(node):
            place = self.program.by_name[node.name].source
            raise UsageError(f"the sum `{node.name}` ({place}) would lose all its operands: leave one of them")
        removed.setdefault(user, {})[node] = None

    def zeros(self, operand: Node, *, before: Node, others: Sequence[Node]) -> Node:
        """Zeros in the shape of an operand. Symbolic sizes are read from values that stay, where possible."""
        value = operand.meta["val"]
        known: dict[str, tuple[Node, int]] = {}
        for other in (operand, *others):  # the last one wins: the operand itself is the last resort
            shape = other.meta["val"].shape if isinstance(other.meta.get("val"), Tensor) else ()
            known.update({str(size): (other, dim) for dim, size in enumerate(shape)})
        sizes = [
            size if isinstance(size, int) else self.call(before, aten.sym_size.int, *known[str(size)])
            for size in value.shape
        ]
        alike = [each for each in others if _same_dtype_and_device(each.meta.get("val"), value)]
        if alike:  # follows the dtype and device in which the network will run
            return self.call(before, aten.new_zeros.default, alike[0], sizes)
        return self.call(before, aten.zeros.default, sizes, dtype=value.dtype, device=value.device)

    def finish(self) -> Program:
        """The edited program, without ops and tensors that no output depends on. The editor is used up."""
        self._drop_dead()
        self.graph.lint()
        lost = {name for node, name in self._names().items() if node not in self.tensors}
        before = {*self.program.parameters.values(), *self.program.buffers.values()}
        names = {node: name for node, name in self._parameters.items() if node in self.tensors}
        buffers = {node: name for node, name in self._buffers.items() if node in self.tensors}
        new = {*names.values(), *buffers.values()} - before
        module = GraphModule(self.program.graph, self.graph)
        ops, outputs = data_flow(module, names)
        present = {node.name for node in self.graph.nodes}
        return dataclasses.replace(
            self.program,
            graph=module,
            ops=ops,
            outputs=outputs,
            tensors=self.tensors,
            parameters=names,
            buffers=buffers,
            unfollowed=tuple(name for name in self.program.unfollowed if name in present),
            overwritten={write: views for write, views in self.program.overwritten.items() if write in present},
            removed=(self.program.removed | (lost - self.program.added)) - new,
            added=(self.program.added | new) - lost,
            rewritten=(self.program.rewritten | self._rewritten) - lost,
        )

    def _names(self) -> Mapping[str, str]:
        return {**self._parameters, **self._buffers}

    def _drop_dead(self) -> None:
        """Removes operators without readers, then tensors that lost their readers.

        A tensor that had no reader before stays, unless its module lost all tensors that had one: the counter of a
        batch norm goes with its batch norm.
        """
        for node in reversed(list(self.graph.nodes)):
            if node.op in ("call_function", "get_attr") and not node.users and not _writes(node):
                self.graph.erase_node(node)
        names, read = self._names(), _read(self.graph, self.tensors)
        lost = self._read - read
        owners = {_module_path(names[node]) for node, tensor in self.tensors.items() if id(tensor) in lost}
        owners -= {_module_path(names[node]) for node, tensor in self.tensors.items() if id(tensor) in read}
        for node in [node for node in self.graph.nodes if node.name in self.tensors]:
            tensor = id(self.tensors[node.name])
            if tensor in lost or (tensor not in read and _module_path(names[node.name]) in owners):
                for write in list(node.users):  # only counters
                    self.graph.erase_node(write)
                self.graph.erase_node(node)
                del self.tensors[node.name]


def _mode(graph: Graph) -> FakeTensorMode:
    values = (node.meta.get("val") for node in graph.nodes)
    return next(value.fake_mode for value in values if isinstance(value, FakeTensor))


def _summands(node: Node) -> list[Node]:
    """The operands of a sum of two values; none for any other node."""
    plain = node.target is aten.add.Tensor and len(node.args) == 2 and not node.kwargs
    summands = [each for each in node.args if isinstance(each, Node)] if plain else []
    return summands if len(summands) == 2 else []


def _same_dtype_and_device(value: object, other: Tensor) -> bool:
    return isinstance(value, Tensor) and (value.dtype, value.device) == (other.dtype, other.device)


def _writes(node: Node) -> bool:
    return is_mutable(node.target)


def _read(graph: Graph, tensors: Mapping[str, Tensor]) -> set[int]:
    """Ids of the tensors that a result depends on; counters of training steps do not count."""
    return {
        id(tensors[node.name])
        for node in graph.nodes
        if node.name in tensors and any(user.users or not _writes(user) for user in node.users)
    }


def _paths(names: Iterable[str]) -> set[str]:
    """The names, and the paths of all modules that hold them."""
    return {".".join(each.split(".")[:i]) for each in names for i in range(1, each.count(".") + 2)}


def _module_path(name: str) -> str:
    return name.rpartition(".")[0]


def _empty_like(like: Node) -> Tensor:
    """An empty tensor with dtype and device of a node's value."""
    value = like.meta["val"]
    return torch.empty(0, dtype=value.dtype, device=value.device)
