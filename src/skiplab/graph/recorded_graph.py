"""The graph of a recorded run, named as `torch.export` names nodes, with sizes that follow the batch as symbols."""

import inspect
import operator
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, Node

from skiplab.graph.free_batch import BatchFit
from skiplab.graph.graph_parts import GraphParts
from skiplab.graph.inputs import Inputs
from skiplab.graph.recorder import Recording
from skiplab.graph.source_map import trace_text
from skiplab.graph.symbolic_values import SymbolicValues
from skiplab.graph.tape import Entry, Frames, Ref
from skiplab.graph.torch_compat import lazy_graph_module, pytree

aten = torch.ops.aten


def graph_parts(model: nn.Module, example: Inputs, run: Recording, fit: BatchFit | None) -> GraphParts:
    """The graph of a run.

    Args:
        model: the recorded model.
        example: the inputs of the run.
        run: the recording.
        fit: which numbers follow the batch size; None for a fixed one.
    """
    builder = _Builder(run, fit)
    names = _input_names(model, example)
    builder.add_placeholders(names, _attribute_names(model))
    for number, entry in enumerate(run.tape.entries):
        if entry.kind in ("call", "item"):
            builder.add(number, entry)
    builder.finish(run.returned)
    saved = (
        {*model.state_dict(keep_vars=True)} if not isinstance(model, torch.jit.ScriptModule) else {*model.state_dict()}
    )
    return GraphParts(
        module=lazy_graph_module(builder.held, builder.graph),
        parameters=builder.parameters,
        buffers=builder.buffers,
        transient=frozenset({*builder.buffers.values()} - saved),
        tensors=builder.tensors,
        arguments=tuple(_bound(model, example)),
        specs=(pytree.tree_flatten(example)[1], run.spec),
        dynamic_batch=fit is not None,
        reads=tuple(dict.fromkeys(_read_text(name, frames) for name, frames in run.tape.reads)),
    )


@dataclass(eq=False)
class _Builder:
    """The graph so far, and the node of each entry."""

    run: Recording
    fit: BatchFit | None
    graph: Graph = field(default_factory=Graph)
    held: nn.Module = field(default_factory=nn.Module)
    parameters: dict[str, str] = field(default_factory=dict)
    buffers: dict[str, str] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.entries = self.run.tape.entries
        self.nodes: dict[int, Node] = {}
        self.values = SymbolicValues(self.entries, self.fit)
        self._sizes: dict[tuple[int, int], Node] = {}
        self._names: set[str] = set()
        self._detached: dict[int, Node] = {}  # values computed without gradients, as operators outside read them
        self._traces: dict[Frames, str] = {}
        self._batch: tuple[Node, int] | None = None  # an input, and its dimension that holds the batch

    def add_placeholders(self, input_names: Sequence[str], attributes: Mapping[int, str]) -> None:
        """Adds parameters, buffers, constants and inputs, in this order."""
        by_kind = {
            kind: [(n, e) for n, e in enumerate(self.entries) if e.kind == kind] for kind in ("state", "constant")
        }
        for kind in ("parameter", "buffer"):
            for number, entry in by_kind["state"]:
                if entry.target[0] == kind:
                    self._state(number, entry.target[1], kind)
        for count, (number, entry) in enumerate(by_kind["constant"]):
            self._state(number, attributes.get(id(entry.target), f"lifted_tensor_{count}"), "constant")
        inputs = [(number, entry) for number, entry in enumerate(self.entries) if entry.kind == "input"]
        for name, (number, entry) in zip(input_names, inputs, strict=True):
            node = self.nodes[number] = self._placeholder(name)
            value = entry.target if entry.form is None else self.values.of(number)
            node.meta.update(lifted=False, val=value)
            if self._batch is None and self.fit is not None and entry.form is not None:
                dims = self.values.varying(number)
                self._batch = (node, dims[0]) if dims else None

    def _placeholder(self, name: str) -> Node:
        """An input of the graph with this very name. fx would number `input`, and drop the number of `memory_0`."""
        node = self.graph.placeholder(name)
        if name not in self._names:
            node.name = node.target = name
        self._names.add(node.name)
        return node

    def _state(self, number: int, name: str, kind: str) -> None:
        node = self.nodes[number] = self._placeholder(f"{kind[0]}_{_identifier(name).lower()}")
        node.meta.update(lifted=True, val=self.values.of(number))
        (self.parameters if kind == "parameter" else self.buffers)[node.name] = name
        entry = self.entries[number]
        self.tensors[node.name] = entry.target if kind == "constant" else self.run.tape.started[number]

    def add(self, number: int, entry: Entry) -> None:
        """Adds an operator, or one of its several results."""
        if entry.kind == "item":
            target, args, kwargs, name = operator.getitem, (self.nodes[entry.args[0].number], entry.target), {}, None
        else:
            other = self.fit.second.entries[number] if self.fit is not None else entry
            target = entry.target
            args = tuple(self._argument(a, b, entry) for a, b in zip(entry.args, other.args, strict=True))
            kwargs = {key: self._argument(a, other.kwargs[key], entry) for key, a in entry.kwargs.items()}
            name = _node_name(self.graph, target)
        node = self.nodes[number] = self.graph.create_node("call_function", target, args, kwargs, name)
        node.meta.update(nn_module_stack=entry.modules, stack_trace=self._trace(entry.frames))
        node.meta["val"] = self.values.of(number) if entry.form is not None else None
        if entry.kind == "item":
            self._set_part(args[0], entry.target, node.meta["val"])

    def _set_part(self, whole: Any, index: int, value: Any) -> None:
        parts = whole.meta["val"] or []
        whole.meta["val"] = [*parts, *[None] * (index - len(parts)), value]

    def _argument(self, mine: Any, its: Any, reader: Entry) -> Any:
        """An operand as a node, number or list; `its` is the same operand of the second run."""
        if isinstance(mine, Ref):
            return self._operand(mine.number, reader)
        if isinstance(mine, list):
            return [self._argument(a, b, reader) for a, b in zip(mine, its, strict=True)]
        if type(mine) in (int, float) and mine != its and self.fit is not None:
            return self._number(mine, its)
        if isinstance(mine, (torch.Generator, torch.ScriptObject)):
            name = f"held_{len(self.held.__dict__)}"
            setattr(self.held, name, mine)
            node = self.graph.get_attr(name)
            node.meta["val"] = None
            return node
        return mine

    def _operand(self, number: int, reader: Entry) -> Node:
        """The node of a value; detached where it was computed without gradients and the reader has them."""
        made, node = self.entries[number], self.nodes[number]
        if made.tracked or not reader.tracked or made.kind not in ("call", "item") or not made.varies:
            return node
        if made.form is None or not made.form.dtype.is_floating_point:
            return node
        if number not in self._detached:
            detached = self._detached[number] = self.graph.call_function(aten.detach.default, (node,))
            detached.meta = dict(node.meta)
        return self._detached[number]

    def _number(self, mine: Any, its: Any) -> Node:
        """A number that follows the batch size, computed from the size of an input."""
        assert self.fit is not None
        if type(mine) is float:
            times = self.fit.scale(mine, its)
            size = self._size(1, 0)
            pair = (size, mine / self.fit.size) if times == 1 else (mine * self.fit.size, size)
            node = self.graph.call_function(operator.mul if times == 1 else operator.truediv, pair)
            node.meta["val"] = mine
            return node
        return self._size(*self.fit.number(mine, its))

    def _size(self, a: int, b: int) -> Node:
        """The node of a·B + b."""
        if (a, b) in self._sizes:
            return self._sizes[a, b]
        assert self._batch is not None
        if (a, b) == (1, 0):
            node = self.graph.call_function(aten.sym_size.int, self._batch)
        elif b:
            node = self.graph.call_function(operator.add, (self._size(a, 0), b))
        else:
            node = self.graph.call_function(operator.mul, (self._size(1, 0), a))
        node.meta["val"] = self.values.size(a, b)
        self._sizes[a, b] = node
        return node

    def finish(self, returned: Iterable[Any]) -> None:
        """Adds the output."""
        values = tuple(self._operand(v.number, Entry("call", None)) if isinstance(v, Ref) else v for v in returned)
        self.graph.output(values).meta["val"] = None

    def _trace(self, frames: Frames) -> str:
        if frames not in self._traces:
            self._traces[frames] = trace_text(frames)
        return self._traces[frames]


def _node_name(graph: Graph, target: Any) -> str | None:
    packet = getattr(target, "overloadpacket", None)
    return None if packet is None else graph._target_to_str(packet.__name__)


def _identifier(name: str) -> str:
    return re.sub(r"\W", "_", name)


def _bound(model: nn.Module, example: Inputs) -> dict[str, Any]:
    """The arguments of `forward` by name."""
    try:
        return dict(inspect.signature(model.forward).bind(*example[0], **example[1]).arguments)
    except (TypeError, ValueError):  # a scripted `forward` has no signature
        return {f"input_{i}": each for i, each in enumerate(example[0])} | dict(example[1])


def _input_names(model: nn.Module, example: Inputs) -> list[str]:
    """A name for each leaf of the inputs: the parameter of `forward`, with the keys of what is nested."""
    by_leaf: dict[int, str] = {}
    for name, value in _bound(model, example).items():
        for path, leaf in pytree.tree_leaves_with_path(value):
            keys = [str(getattr(key, "idx", getattr(key, "key", key))) for key in path]
            by_leaf.setdefault(id(leaf), "_".join([name, *keys]))
    leaves = pytree.tree_leaves(example)
    return [_identifier(by_leaf.get(id(leaf), f"input_{i}")) for i, leaf in enumerate(leaves)]


def _attribute_names(model: nn.Module) -> dict[int, str]:
    """The names of tensors that modules hold as plain attributes, by id."""
    return {
        id(value): f"{path}.{name}".lstrip(".")
        for path, module in model.named_modules()
        for name, value in vars(module).items()
        if isinstance(value, Tensor)
    }


def _read_text(name: str, frames: Frames) -> str:
    """ "`item` at net.py:12"."""
    own = next(((code.co_filename, line) for code, line in frames), None)
    return f"`{name}`" if own is None else f"`{name}` at {own[0]}:{own[1]}"
