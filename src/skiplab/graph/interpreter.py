"""Run a program node by node: record values, patch the values that one reader gets, fork a running pass."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Self

import torch
from torch import Tensor
from torch.fx import Interpreter, Node

from skiplab.graph.program import Program
from skiplab.graph.torch_compat import storage_id

Patch = Callable[[Tensor], Tensor]
Edge = tuple[str, str]  # (reader, operand): the value of `operand` as `reader` gets it


def run(program: Program, *args: Any, **kwargs: Any) -> Any:
    """The program's output for these inputs, in the model's own form. The model's buffers do not change."""
    return Execution(program, args, kwargs).finish()


def detached_tensors(program: Program) -> dict[str, Tensor]:
    """The program's trainable tensors, detached: hand them to a pass whose gradients must not reach the model's own."""
    return {name: tensor.detach() for name, tensor in program.tensors.items() if tensor.requires_grad}


class Execution(Interpreter):
    """One pass through a program, which can be stopped, forked and continued.

    Values never change once computed (the graph is functional) and are dropped after their last reader, so a
    fork costs a dictionary, and both passes compute every further value for themselves.

    Args:
        program: what to run.
        args, kwargs: the user's inputs, as the model takes them.
        watch: name of an op -> a function that is called with its value once it is computed.
        patches: edge (reader, operand) -> a function applied to the operand's value, for that reader alone.
        tensors: placeholder name -> the value to use in place of the program's parameter or buffer. The graph writes
            to copies of these too.

    Attributes:
        recorded: the values kept so far: those that `recording` asks for, by name of the op.
        position: index of the next node to run.
    """

    def __init__(
        self,
        program: Program,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any] | None = None,
        *,
        watch: Mapping[str, Callable[[Any], None]] | None = None,
        patches: Mapping[Edge, Patch] | None = None,
        tensors: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__(program.graph, garbage_collect_values=False)
        self.program = program
        self.plan = program.plan
        self.position = 0
        self.recorded: dict[str, Tensor] = {}
        self.record: frozenset[str] = frozenset()
        self.watch = dict(watch or {})
        self.patches = dict(patches or {})
        self.readers = {reader for reader, _ in self.patches}
        self.given = (args, kwargs, tensors)
        given = dict(zip(program.inputs, program.flatten(args, kwargs), strict=True))
        if program.unfollowed:  # such a write may overwrite the user's inputs
            given = {name: v.clone() if isinstance(v, Tensor) else v for name, v in given.items()}
        bound = {**program.tensors, **(tensors or {})}
        for name in self.plan.mutated:
            bound[name] = bound[name].clone()
        self.values = {**bound, **given}
        self.output: Any = None
        self.env: dict[Node, Any] = {}

    def recording(self, names: Iterable[str]) -> Self:
        """Keeps the values of these ops in `recorded`, from here on. Returns the pass itself."""
        self.record |= frozenset(names)
        return self

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
        copies = {storage_id(self.values[name]): (self.values[name], own[name]) for name in own}
        other.env = {node: rebase_view(value, copies) for node, value in self.env.items()}
        other.patches, other.readers = dict(patches), {reader for reader, _ in patches}
        return other

    def run_until(self, name: str | None = None) -> Self:
        """Runs up to, and not including, the node of this name; to the end when None."""
        return self._run_to(len(self.plan.nodes) if name is None else self.plan.index[name])

    def value(self, name: str) -> Any:
        """Runs up to and including a node that has not run yet, and returns its value."""
        self.recording([name])._run_to(self.plan.index[name] + 1)
        return self.recorded[name]

    def _run_to(self, stop: int) -> Self:
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
        self.run_until()
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


def rebase_view(value: Any, copies: Mapping[int, tuple[Tensor, Tensor]]) -> Any:
    """The same view of the copy, for a view of a tensor that was copied; any other value unchanged.

    Args:
        value: what an operator gave.
        copies: id of a storage -> (the tensor that was copied, its copy).
    """
    if not copies or not isinstance(value, Tensor) or storage_id(value) not in copies:
        return value
    old, new = copies[storage_id(value)]
    offset = value.storage_offset() - old.storage_offset()
    return new.as_strided(value.shape, value.stride(), new.storage_offset() + offset)
