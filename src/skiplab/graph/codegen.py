"""The Python source of a functional graph: a `forward` that reads its tensors from the module it belongs to."""

import inspect
import linecache
import operator
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from keyword import iskeyword
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node

from skiplab.graph.torch_compat import pytree, schema_of

aten = torch.ops.aten
Specs = tuple[pytree.TreeSpec, pytree.TreeSpec]  # how torch flattens (args, kwargs), and the output

# Arguments of operators that switch between training and evaluation.
_MODES = frozenset("training train use_input_stats".split())
_CONTAINERS = (tuple, list, dict)
_NUMBERS = frozenset(("inf", "nan"))


@dataclass(frozen=True)
class Code:
    """The source of a module's `forward`.

    Attributes:
        text: imports, and a function `forward(self, …)`.
        specs: None where that function takes and returns what the network does. Where inputs or outputs are nested,
            the function takes and returns flat lists of tensors, and `specs` says how to nest them.
        arguments: names of the network's arguments.
    """

    text: str
    specs: Specs | None
    arguments: tuple[str, ...] = ()

    def __deepcopy__(self, memo: dict[int, Any]) -> "Code":
        return self  # immutable

    def __reduce__(self) -> tuple[Any, ...]:
        forms = None if self.specs is None else tuple(_flattened(spec) for spec in self.specs)
        return _code, (self.text, forms, self.arguments)

    def function(self) -> Callable[..., Any]:
        """The compiled function; tracebacks and captures show its lines."""
        file = f"<forward {zlib.crc32(self.text.encode()):08x}>"
        linecache.cache[file] = len(self.text), None, self.text.splitlines(keepends=True), file
        space: dict[str, Any] = {}
        exec(compile(self.text, file, "exec"), space)
        return space["forward"]


def code_of(
    graph: Graph, names: Mapping[str, str], specs: Specs, arguments: tuple[str, ...], *, training: bool
) -> Code:
    """The source of a functional graph; the graph does not change.

    Batch norm with running statistics and dropout follow the module's mode. An operator that an inference graph has in
    its training form keeps it.

    Args:
        graph: with its tensors as placeholders, and a flat tuple as output.
        names: placeholder -> the attribute in which the module has the tensor.
        specs: the network's.
        arguments: names of `forward`'s parameters.
        training: whether the graph is a training graph.
    """
    copy, new = Graph(), {}
    plain = _is_plain(*specs)
    for node in graph.nodes:
        if node.name in names:
            new[node] = _attribute(copy, names[node.name])
        elif node.op == "output":
            values = torch.fx.map_arg(tuple(node.args[0]), new.__getitem__)
            copy.output(pytree.tree_unflatten(values, specs[1]) if plain else values)
        elif node.target is aten.copy.default:  # `copy` has no derivative
            written, value = (new[operand] for operand in node.args[:2])  # type: ignore[index]
            value = copy.call_function(aten.type_as.default, (value, written))
            new[node] = copy.call_function(aten.expand_as.default, (value, written))
        elif node.target is not aten._assert_tensor_metadata.default:
            new[node] = copy.node_copy(node, new.__getitem__)
    _follow_mode(copy, training)
    _follow_device(copy)
    _read_late(copy)
    if plain:
        for node, name in zip((n for n in copy.nodes if n.op == "placeholder"), arguments, strict=True):
            node.target = name
    made = copy.python_code("self")
    text = re.sub(r"\n{2,}", "\n", made.src).strip()
    return Code("\n".join([*_imports(text, made.globals), "", "", text, ""]), None if plain else specs, arguments)


def _attribute(graph: Graph, name: str) -> Node:
    """A node that reads an attribute; a module with a Python keyword as its name is looked up by its string."""
    parts = name.split(".")
    kept = next((i for i, part in enumerate(parts) if iskeyword(part)), len(parts))
    if kept == len(parts):
        return graph.get_attr(name)
    node = graph.get_attr(".".join([*parts[:kept], "_modules"]))
    for i, part in enumerate(parts[kept:], kept):
        node = graph.call_function(operator.getitem if iskeyword(part) else getattr, (node, part))
        if i + 1 < len(parts) and iskeyword(parts[i + 1]):
            node = graph.call_function(getattr, (node, "_modules" if i + 2 < len(parts) else "_parameters"))
    return node


def _read_late(graph: Graph) -> None:
    """Moves the reading of an attribute to just before its first use; unused ones are removed."""
    place = {node: i for i, node in enumerate(graph.nodes)}
    for node in [node for node in graph.nodes if node.op == "get_attr"]:
        if node.users:
            min(node.users, key=place.__getitem__).prepend(node)
        else:
            graph.erase_node(node)


def _code(text: str, forms: tuple | None, arguments: tuple[str, ...]) -> Code:
    return Code(text, None if forms is None else (_spec(forms[0]), _spec(forms[1])), arguments)


def _flattened(spec: pytree.TreeSpec) -> tuple:
    """A spec as plain tuples, () for a leaf: torch warns when one of its leaves is copied or unpickled."""
    return () if spec.is_leaf() else (spec.type, spec.context, [_flattened(child) for child in spec.children()])


def _spec(form: tuple) -> pytree.TreeSpec:
    if not form:
        return pytree.tree_structure(0)
    kind, context, children = form
    return pytree.TreeSpec(kind, context, [_spec(child) for child in children])


def _is_plain(inputs: pytree.TreeSpec, outputs: pytree.TreeSpec) -> bool:
    """Whether each input is an argument of its own, and the outputs are in Python's own containers alone."""
    given = [leaf for group in inputs.children() for leaf in group.children()]
    return all(leaf.is_leaf() for leaf in given) and all(spec.type in _CONTAINERS for spec in _inner(outputs))


def _inner(spec: pytree.TreeSpec) -> Iterator[pytree.TreeSpec]:
    if not spec.is_leaf():
        yield spec
        for child in spec.children():
            yield from _inner(child)


def _follow_mode(graph: Graph, captured: bool) -> None:
    mode: Node | None = None
    for node in list(graph.nodes):
        for place, argument in enumerate(getattr(schema_of(node.target), "arguments", ())):
            if argument.name not in _MODES or argument.kwarg_only or _always_of_batch(node):
                continue
            defaults = [each.default_value for each in schema_of(node.target).arguments[len(node.args) : place + 1]]  # type: ignore[union-attr]
            node.args = (*node.args, *defaults)  # a capture leaves out defaults
            if node.args[place] is not captured:
                continue
            if mode is None:
                with graph.inserting_before(next(n for n in graph.nodes if n.op != "placeholder")):
                    mode = graph.get_attr("training")
            node.args = (*node.args[:place], mode, *node.args[place + 1 :])


def _always_of_batch(node: Node) -> bool:
    """Whether a norm uses the batch's statistics in both modes."""
    names = [argument.name for argument in schema_of(node.target).arguments]  # type: ignore[union-attr]
    return "running_mean" in names and node.args[names.index("running_mean")] is None


def _follow_device(graph: Graph) -> None:
    """Tensors that the graph creates are created on the first input's device, whatever device it was captured on."""
    first = next((n for n in graph.nodes if n.op == "placeholder" and isinstance(n.meta.get("val"), Tensor)), None)
    there: Node | None = None
    for node in list(graph.nodes) if first is not None else ():
        if isinstance(node.kwargs.get("device"), torch.device) and first is not None:
            if there is None:
                with graph.inserting_after(first):
                    there = graph.call_function(getattr, (first, "device"))
            node.kwargs = {**node.kwargs, "device": there}


def _imports(text: str, names: Mapping[str, Any]) -> list[str]:
    lines = []
    for name, value in names.items():
        if not re.search(rf"(?<![\w.]){re.escape(name)}\b", text):
            continue
        if name in _NUMBERS:
            lines.append(f"from math import {name}")
        elif inspect.ismodule(value):
            lines.append(f"import {value.__name__}" + ("" if value.__name__ == name else f" as {name}"))
        elif getattr(value, "__module__", "") == "builtins" and value.__qualname__ == name:
            continue
        elif name == "NoneType":
            lines.append("from types import NoneType")
        else:
            lines.append(f"from {value.__module__} import {value.__qualname__}" + _as(value.__qualname__, name))
    return sorted(lines)


def _as(known: str, name: str) -> str:
    return "" if known == name else f" as {name}"
