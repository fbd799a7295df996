"""A copy of a program's graph that is being changed, and the program that it becomes."""

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


class Draft:
    """The nodes have the program's names, so that edges and records of skips say where something is changed.

    Attributes:
        program: which is left as it is.
        graph: the copy.
        nodes: those of the program, by name.
        tensors: placeholder -> tensor.
        mode: that of the values with which the graph was captured, which have shapes and no data.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.graph = Graph()
        new: dict[Node, Node] = {}
        for node in program.graph.graph.nodes:
            new[node] = self.graph.node_copy(node, new.__getitem__)
            new[node].name = node.name  # fx would number names that Python has too, such as `input`
        self.nodes = {node.name: copy for node, copy in new.items()}
        self.tensors = dict(program.tensors)
        self.mode = _mode(program.graph.graph)
        self._parameters = dict(program.parameters)
        self._buffers = dict(program.buffers)
        self._rewritten: set[str] = set()
        self._taken = _paths([*self._parameters.values(), *self._buffers.values(), *program.removed])
        self._read = _read(self.graph, self.tensors)

    def call(self, before: Node, target: Any, *args: Any, **kwargs: Any) -> Node:
        """A new operator in front of a node, said to stand where that node stands in the model's code."""
        with self.graph.inserting_before(before):
            node = self.graph.call_function(target, args, kwargs)
        node.meta = {key: value for key, value in before.meta.items() if key != "lifted"}
        node.meta["val"] = fake_value(node, self.mode)
        return node

    def parameter(self, path: str, name: str, value: Tensor, *, like: Node) -> Node:
        """A new parameter of a module, of dtype and device of a node's value; where the name is taken, numbered."""
        return self._stored(self._parameters, path, name, nn.Parameter(value.to(_example(like))))

    def buffer(self, path: str, name: str, value: Tensor, *, like: Node) -> Node:
        """The same for a buffer; whole numbers stay what they are."""
        tensor = value.to(_example(like)) if value.is_floating_point() else value.to(_example(like).device)
        return self._stored(self._buffers, path, name, tensor)

    def _stored(self, names: dict[str, str], path: str, name: str, tensor: Tensor) -> Node:
        full = self.free(f"{path}.{name}" if path else name)
        with self.graph.inserting_before(next(iter(self.graph.nodes))):
            node = self.graph.placeholder(full.replace(".", "_"))
        node.target = node.name
        node.meta = {"lifted": True, "val": self.mode.from_tensor(tensor, static_shapes=True)}
        names[node.name] = full
        self.tensors[node.name] = tensor
        self._taken |= _paths([full])
        return node

    def free(self, name: str) -> str:
        """A name that no tensor has, and no module of one."""
        numbered = (f"{name}_{i}" for i in range(2, len(self._taken) + 3))
        return name if name not in self._taken else next(each for each in numbered if each not in self._taken)

    def name_of(self, placeholder: Node) -> str:
        """A tensor's name in the model."""
        return self._names()[placeholder.name]

    def replace_tensor(self, placeholder: str, value: Tensor, *, rewritten: bool = False) -> None:
        """Another value for a parameter or buffer, of the kind it was, perhaps in another shape.

        rewritten: whether it stands for something else now, so that its former value would be wrong in its place.
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
        """All readers of one value read another, which must have its shape."""
        if form(old) != form(new):
            raise UsageError(f"`{new.name}` has shape {form(new)}, and what reads `{old.name}` expects {form(old)}")
        old.replace_all_uses_with(new, delete_user_cb=lambda user: user is not new)

    def redirect(self, edge: Edge, new: Node) -> None:
        """One reader of a value reads another, which must have its shape."""
        reader, operand = (self.nodes[name] for name in edge)
        wanted, given = form(operand), form(new)
        if wanted is not None and given is not None and wanted[0] != given[0]:
            raise UsageError(f"`{reader.name}` reads {wanted[0]}, and `{new.name}` would give it {given[0]}")
        reader.replace_input_with(operand, new)

    def without(self, edges: Iterable[Edge]) -> None:
        """Takes operands out of merges: out of a sum for good; where a merge is no sum, zeros come in their place.

        UsageError where nothing would be left of a sum.
        """
        gone: dict[Node, dict[Node, None]] = {}  # in order, so that new nodes have the same names every time
        for reader, operand in edges:
            gone.setdefault(self.nodes[reader], {})[self.nodes[operand]] = None
        for node in [node for node in self.graph.nodes if _summands(node)]:
            if node in gone and gone[node].keys() >= {*_summands(node)}:  # such as the x + x of x + x + f
                self._pass_on(node, gone)
        for node in reversed([node for node in self.graph.nodes if node in gone]):  # readers still have what they had
            rest = [operand for operand in _summands(node) if operand not in gone[node]]
            if len(rest) == 1 and form(rest[0]) == form(node):
                node.replace_all_uses_with(rest[0])
            elif rest or not _summands(node):
                stay = [each for each in node.all_input_nodes if each not in gone[node]]
                for operand in gone[node]:
                    node.replace_input_with(operand, self.zeros(operand, before=node, beside=stay))

    def _pass_on(self, node: Node, gone: dict[Node, dict[Node, None]]) -> None:
        """A sum of which nothing is left is itself taken out of the sum that it is a part of."""
        user = next(iter(node.users))
        if len(node.users) > 1 or not _summands(user) or form(user) != form(node):
            place = self.program.by_name[node.name].source
            raise UsageError(f"nothing would be left of the sum `{node.name}` ({place}): leave one of its ways")
        gone.setdefault(user, {})[node] = None

    def zeros(self, operand: Node, *, before: Node, beside: Sequence[Node]) -> Node:
        """Zeros of an operand's form, for one reader; what varies is read off values that stay, if it can be."""
        value = operand.meta["val"]
        known: dict[str, tuple[Node, int]] = {}
        for other in (operand, *beside):  # the last one wins: the operand itself only where no other will do
            shape = other.meta["val"].shape if isinstance(other.meta.get("val"), Tensor) else ()
            known.update({str(size): (other, dim) for dim, size in enumerate(shape)})
        sizes = [
            size if isinstance(size, int) else self.call(before, aten.sym_size.int, *known[str(size)])
            for size in value.shape
        ]
        alike = [each for each in beside if _is_alike(each.meta.get("val"), value)]
        if alike:  # in whatever precision and place the network will run
            return self.call(before, aten.new_zeros.default, alike[0], sizes)
        return self.call(before, aten.zeros.default, sizes, dtype=value.dtype, device=value.device)

    def done(self) -> Program:
        """The changed program, without what no output depends on any more. The draft is used up."""
        self._drop_dead()
        self.graph.lint()
        lost = {name for node, name in self._names().items() if node not in self.tensors}
        was = {*self.program.parameters.values(), *self.program.buffers.values()}
        names = {node: name for node, name in self._parameters.items() if node in self.tensors}
        buffers = {node: name for node, name in self._buffers.items() if node in self.tensors}
        new = {*names.values(), *buffers.values()} - was
        module = GraphModule(self.program.graph, self.graph)
        ops, outputs = data_flow(module, names)
        here = {node.name for node in self.graph.nodes}
        return dataclasses.replace(
            self.program,
            graph=module,
            ops=ops,
            outputs=outputs,
            tensors=self.tensors,
            parameters=names,
            buffers=buffers,
            unfollowed=tuple(name for name in self.program.unfollowed if name in here),
            overwritten={write: views for write, views in self.program.overwritten.items() if write in here},
            removed=(self.program.removed | (lost - self.program.added)) - new,
            added=(self.program.added | new) - lost,
            rewritten=(self.program.rewritten | self._rewritten) - lost,
        )

    def _names(self) -> Mapping[str, str]:
        return {**self._parameters, **self._buffers}

    def _drop_dead(self) -> None:
        """Operators that nothing reads, then the tensors that nothing reads any more, with what belongs to them.

        A tensor that was not read before stays, unless its module has lost all that was: as the counter of a batch
        norm.
        """
        for node in reversed(list(self.graph.nodes)):
            if node.op in ("call_function", "get_attr") and not node.users and not _writes(node):
                self.graph.erase_node(node)
        names, read = self._names(), _read(self.graph, self.tensors)
        lost = self._read - read
        owners = {_owner(names[node]) for node, tensor in self.tensors.items() if id(tensor) in lost}
        owners -= {_owner(names[node]) for node, tensor in self.tensors.items() if id(tensor) in read}
        for node in [node for node in self.graph.nodes if node.name in self.tensors]:
            tensor = id(self.tensors[node.name])
            if tensor in lost or (tensor not in read and _owner(names[node.name]) in owners):
                for write in list(node.users):  # none but counters
                    self.graph.erase_node(write)
                self.graph.erase_node(node)
                del self.tensors[node.name]


def _mode(graph: Graph) -> FakeTensorMode:
    values = (node.meta.get("val") for node in graph.nodes)
    return next(value.fake_mode for value in values if isinstance(value, FakeTensor))


def _summands(node: Node) -> list[Node]:
    """The operands of a sum of two values; none where a node is no sum of that form."""
    plain = node.target is aten.add.Tensor and len(node.args) == 2 and not node.kwargs
    summands = [each for each in node.args if isinstance(each, Node)] if plain else []
    return summands if len(summands) == 2 else []


def _is_alike(value: object, other: Tensor) -> bool:
    return isinstance(value, Tensor) and (value.dtype, value.device) == (other.dtype, other.device)


def _writes(node: Node) -> bool:
    return is_mutable(node.target)


def _read(graph: Graph, tensors: Mapping[str, Tensor]) -> set[int]:
    """Ids of the tensors that something depends on; what but counts the steps of training is nothing."""
    return {
        id(tensors[node.name])
        for node in graph.nodes
        if node.name in tensors and any(user.users or not _writes(user) for user in node.users)
    }


def _paths(names: Iterable[str]) -> set[str]:
    """The names, and those of all modules that they lie in."""
    return {".".join(each.split(".")[:i]) for each in names for i in range(1, each.count(".") + 2)}


def _owner(name: str) -> str:
    return name.rpartition(".")[0]


def _example(like: Node) -> Tensor:
    """A tensor of the dtype and device of a node's value."""
    value = like.meta["val"]
    return torch.empty(0, dtype=value.dtype, device=value.device)
