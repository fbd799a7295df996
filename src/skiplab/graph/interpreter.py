"""Run a program step by step: record values, patch values on their way into a merge, fork off a running pass."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.fx import Interpreter, Node

from skiplab.graph.functionalize import viewed_operand
from skiplab.graph.program import Program

Patch = Callable[[Tensor], Tensor]
Edge = tuple[str, str]  # (reader, operand): the value of `operand` as `reader` gets it


def run(program: Program, *args: Any, **kwargs: Any) -> Any:
    """The program's output for these inputs, in the model's own form. The model's buffers stay as they are."""
    return Execution(program, args, kwargs).finish()


def detached_tensors(program: Program) -> dict[str, Tensor]:
    """What stands for the tensors that learn in a pass whose gradients are not to reach the model's own."""
    return {name: tensor.detach() for name, tensor in program.tensors.items() if tensor.requires_grad}


class Execution(Interpreter):
    """One pass through a program, which can be stopped, forked and continued.

    Values never change once computed (the graph is functional) and are dropped after their last reader, so a
    fork costs a dictionary, and both passes compute every further value for themselves.

    Args:
        program: what to run.
        args, kwargs: the user's inputs, as the model takes them.
        record: names of ops whose values are kept in `recorded`.
        watch: for the name of an op, a function that is shown its value once it is computed.
        patches: for an edge (reader, operand), a function applied to the operand's value for that reader
            alone.
        tensors: values that stand for parameters or buffers, by placeholder name. The graph writes to copies of these
            too.
    """

    def __init__(
        self,
        program: Program,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any] | None = None,
        *,
        record: Iterable[str] = (),
        watch: Mapping[str, Callable[[Any], None]] | None = None,
        patches: Mapping[Edge, Patch] | None = None,
        tensors: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__(program.graph, garbage_collect_values=False)
        self.program = program
        self.plan = _plan(program)
        self.position = 0
        self.recorded: dict[str, Tensor] = {}
        self.record = frozenset(record)
        self.watch = dict(watch or {})
        self.patches = dict(patches or {})
        self.readers = {reader for reader, _ in self.patches}
        self.given = (args, kwargs, tensors)
        given = dict(zip(program.inputs, program.flatten(args, kwargs), strict=True))
        if program.unfollowed:  # perhaps it is them that such a write overwrites
            given = {name: v.clone() if isinstance(v, Tensor) else v for name, v in given.items()}
        bound = {**program.tensors, **(tensors or {})}
        for name in self.plan.mutated:
            bound[name] = bound[name].clone()
        self.values = {**bound, **given}
        self.output: Any = None
        self.env: dict[Node, Any] = {}

    def fork(self, patches: Mapping[Edge, Patch]) -> "Execution":
        """A second pass that continues from here with these patches; recorded values are not shared."""
        if self.program.unfollowed:  # a write that stayed in place would reach both passes
            args, kwargs, tensors = self.given
            return Execution(self.program, args, kwargs, patches=patches, tensors=tensors)
        other = object.__new__(Execution)
        other.__dict__.update(self.__dict__)
        other.recorded, other.record, other.watch = {}, frozenset(), {}
        own = {name: self.values[name].clone() for name in self.plan.mutated}
        other.values = {**self.values, **own}
        moved = {self.values[name].untyped_storage()._cdata: (self.values[name], own[name]) for name in own}
        other.env = {node: _moved(value, moved) for node, value in self.env.items()}
        other.patches, other.readers = dict(patches), {reader for reader, _ in patches}
        return other

    def advance(self, until: str | None = None) -> "Execution":
        """Runs up to, and not including, the node named `until` (to the end when None)."""
        return self._run_to(len(self.plan.nodes) if until is None else self.plan.index[until])

    def value(self, name: str) -> Any:
        """Runs up to and including a node that has not run yet, and returns its value."""
        self.record |= {name}
        self._run_to(self.plan.index[name] + 1)
        return self.recorded[name]

    def _run_to(self, stop: int) -> "Execution":
        for position in range(self.position, stop):
            node = self.plan.nodes[position]
            value = self.env[node] = self.run_node(node)
            if node.name in self.record:
                self.recorded[node.name] = value
            if node.name in self.watch:
                self.watch[node.name](value)
            for dead in self.plan.dies[position]:
                self.env.pop(dead, None)
        self.position = max(self.position, stop)
        return self

    def finish(self) -> Any:
        """Runs to the end and returns the output."""
        self.advance()
        return self.program.unflatten(list(self.output))

    def run_node(self, n: Node) -> Any:
        if n.op == "placeholder":
            return self.values[n.name]
        if n.op == "output":
            self.output = self.map_nodes_to_values(n.args[0], n)
            return None
        return super().run_node(n)

    def map_nodes_to_values(self, args: Any, n: Node) -> Any:
        if n.name not in self.readers:
            return super().map_nodes_to_values(args, n)

        def value(operand: Node) -> Any:
            patch = self.patches.get((n.name, operand.name))
            return self.env[operand] if patch is None else patch(self.env[operand])

        return torch.fx.map_arg(args, value)


def _moved(value: Any, moved: Mapping[int, tuple[Tensor, Tensor]]) -> Any:
    """A view of a tensor that has a copy, as the same view of the copy; any other value as it is."""
    if not moved or not isinstance(value, Tensor) or value.untyped_storage()._cdata not in moved:
        return value
    old, new = moved[value.untyped_storage()._cdata]
    offset = value.storage_offset() - old.storage_offset()
    return new.as_strided(value.shape, value.stride(), new.storage_offset() + offset)


class _Plan:
    """What is the same for every pass: order, last readers, buffers that the graph writes to."""

    def __init__(self, program: Program) -> None:
        self.nodes: list[Node] = list(program.graph.graph.nodes)
        self.index = {node.name: position for position, node in enumerate(self.nodes)}
        last: dict[Node, int] = {}
        for position, node in enumerate(self.nodes):
            last[node] = position  # never read: dropped at once
            for operand in node.all_input_nodes:
                last[operand] = position
        self.dies: list[list[Node]] = [[] for _ in self.nodes]
        for node, position in last.items():
            self.dies[position].append(node)
        self.mutated = frozenset(_mutated(program, self.nodes))


def _mutated(program: Program, nodes: list[Node]) -> Iterable[str]:
    """Placeholders that running the graph overwrites. Batch norm does so in training, and does not say so."""
    for node in nodes:
        schema = getattr(node.target, "_schema", None)
        if schema is None:
            continue
        statistics = "batch_norm" in schema.name or "instance_norm" in schema.name
        for operand, argument in zip(node.args, schema.arguments, strict=False):
            written = argument.alias_info is not None and argument.alias_info.is_write
            if written or (statistics and argument.name.startswith("running_")):
                while isinstance(operand, Node) and (base := viewed_operand(operand)) is not None:
                    operand = base
                if isinstance(operand, Node) and operand.name in program.tensors:
                    yield operand.name


def _plan(program: Program) -> _Plan:
    plan = program.__dict__.get("_plan")
    if plan is None:
        plan = program.__dict__["_plan"] = _Plan(program)
    return plan
