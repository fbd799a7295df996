"""A captured network: its graph, the flow of data through it, and where in the user's code each step stands."""

import hashlib
import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node
from torch.utils import _pytree as pytree

from skiplab.errors import UsageError
from skiplab.graph import ops
from skiplab.graph.codegen import Code, code_of
from skiplab.graph.decompose import blend, inline, unfold
from skiplab.graph.functionalize import functionalise
from skiplab.graph.module import Network, Origin, network
from skiplab.graph.ops import Kind, Op
from skiplab.graph.origins import anchors
from skiplab.graph.source_map import innermost_source, paths_in


@dataclass(frozen=True, eq=False)
class Program:
    """A network as a data-flow graph, bound to the model's own parameters (shared, not copied).

    Attributes:
        graph: the functional graph; parameters and buffers are its first placeholders.
        ops: the data flow: one `Op` for each node that carries data. Parameters, shapes, constants and what
            is computed from them alone are left out.
        outputs: indices of the ops that the network returns, in order.
        tensors: placeholder name -> the model's parameter, buffer or constant.
        parameters: placeholder name -> the parameter's name in the model.
        buffers: placeholder name -> the buffer's or constant's name in the model.
        transient: names of buffers and constants that the model's state dict does not hold.
        inputs: names of the placeholders that take the user's inputs, flattened.
        arguments: names of the parameters of the model's `forward` that the example fills.
        example: the (args, kwargs) with which the model was captured.
        name: the model's class.
        training: whether the training graph was captured.
        dynamic_batch: whether the first dimension of the inputs may vary.
        difference: largest absolute difference between the outputs of graph and model on the example; NaN
            where they could not be compared.
        unfollowed: names of in-place writes that the data flow could not follow.
        overwritten: name of each in-place write that was followed -> names of the views that were taken before it
            and are read after it.
        train_only: paths of modules that act in training alone, of which an inference graph has no trace: drop-path,
            dropout inside an attention operator.
        removed: names that the captured model's state dict holds and that an edit has taken out of this network.
        added: names that an edit has put in.
        rewritten: names of tensors into which an edit has folded others.
    """

    graph: GraphModule = field(repr=False)
    ops: tuple[Op, ...] = field(repr=False)
    outputs: tuple[int, ...] = field(repr=False)
    tensors: Mapping[str, Tensor] = field(repr=False)
    parameters: Mapping[str, str] = field(repr=False)
    buffers: Mapping[str, str] = field(repr=False)
    transient: frozenset[str] = field(repr=False)
    inputs: tuple[str, ...]
    arguments: tuple[str, ...] = field(repr=False)
    example: tuple[tuple[Any, ...], dict[str, Any]] = field(repr=False)
    specs: tuple[pytree.TreeSpec, pytree.TreeSpec] = field(repr=False)
    name: str
    training: bool
    dynamic_batch: bool
    difference: float
    unfollowed: tuple[str, ...] = ()
    overwritten: Mapping[str, tuple[str, ...]] = field(default_factory=dict, repr=False)
    train_only: tuple[str, ...] = field(default=(), repr=False)
    removed: frozenset[str] = field(default=frozenset(), repr=False)
    added: frozenset[str] = field(default=frozenset(), repr=False)
    rewritten: frozenset[str] = field(default=frozenset(), repr=False)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the structure alone: the same for the same network with other weights."""
        text = "\n".join(f"{op.name} {op.target} {op.inputs} {op.shape[1:]}" for op in self.ops)
        return hashlib.sha256(f"{text}\n{self.outputs}".encode()).hexdigest()[:16]

    @cached_property
    def users(self) -> tuple[tuple[int, ...], ...]:
        """For each op, the indices of the ops that read it, in order; one entry an operand."""
        users: list[list[int]] = [[] for _ in self.ops]
        for op in self.ops:
            for operand in op.inputs:
                users[operand].append(op.index)
        return tuple(tuple(each) for each in users)

    @cached_property
    def useful(self) -> frozenset[int]:
        """Indices of the ops on which an output depends."""
        useful = set(self.outputs)
        for op in reversed(self.ops):
            if op.index in useful:
                useful.update(op.inputs)
        return frozenset(useful)

    @cached_property
    def by_name(self) -> Mapping[str, Op]:
        return {op.name: op for op in self.ops}

    @cached_property
    def anchors(self) -> list[frozenset[int]]:
        """For each op, where the ways start of which its value is made; see `skiplab.graph.origins`."""
        return anchors(self.ops)

    @cached_property
    def growing(self) -> frozenset[int]:
        """Indices of the ops that raise the resolution: upsampling, transposed convolution, pixel shuffle."""
        return frozenset(op.index for op in self.ops if op.inputs and _grows(op, self.ops[op.inputs[0]]))

    @cached_property
    def has_modules(self) -> bool:
        """Whether it is known of any op in which module it stands; of generated code it is not."""
        return any(op.module for op in self.ops)

    @cached_property
    def size(self) -> int:
        """How many numbers its parameters hold, tied ones once."""
        held = (self.tensors[node] for node in self.parameters if node in self.tensors)
        return sum(tensor.numel() for tensor in {id(tensor): tensor for tensor in held}.values())

    @cached_property
    def nodes(self) -> Mapping[str, Node]:
        """The graph's nodes by name."""
        return {node.name: node for node in self.graph.graph.nodes}

    @cached_property
    def code(self) -> Code:
        """The source of `module`'s `forward`."""
        names = {**self.parameters, **self.buffers}
        return code_of(self.graph.graph, names, self.specs, self.arguments, training=self.training)

    def flatten(self, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None) -> list[Any]:
        """The user's inputs in the order of `inputs`; UsageError when they do not have the captured form."""
        try:
            return self.specs[0].flatten_up_to((tuple(args), dict(kwargs or {})))
        except ValueError as error:
            raise UsageError(
                f"{self.name} takes {_form(*self.example)} as captured, got {_form(args, kwargs or {})}: {error}"
            ) from None

    def module(self) -> Network:
        """The network as a module of its own, in evaluation mode: its tensors are copies of the program's.

        They have the names that they have in the model, so that its checkpoints load; buffers' modes and ties are
        kept. Batch norm and dropout follow the module's mode; what acts in training alone and has left no trace in
        an inference graph (`train_only`) is gone. What `forward` decided in Python stays decided as it was. A batch
        norm's counter of batches does not advance, so that one without momentum (None) keeps its statistics.
        """
        names = {**self.parameters, **self.buffers}
        copies: dict[int, Tensor] = {}
        for tensor in self.tensors.values():
            copies.setdefault(id(tensor), _copied(tensor))
        tensors = [(name, copies[id(self.tensors[node])], name not in self.transient) for node, name in names.items()]
        return network(self.name, self.code, tensors, Origin(self.removed, self.added, self.rewritten))

    def unflatten(self, values: list[Any]) -> Any:
        """The network's output in the form in which the model returns it."""
        return pytree.tree_unflatten(values, self.specs[1])


def _copied(tensor: Tensor) -> Tensor:
    copy = tensor.detach().clone()
    return nn.Parameter(copy, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else copy


def _grows(op: Op, before: Op) -> bool:
    """A transposed convolution of stride 1, or an interpolation to the same size, does not."""
    return ops.raises_resolution(op.target) and _positions(op) > _positions(before)


def _positions(op: Op) -> int:
    return math.prod(size for size in op.shape[2:] if size is not None)


def from_exported(exported: ExportedProgram, name: str, example: tuple[tuple, dict]) -> Program:
    """Builds the data flow of an exported program, whose graph is rewritten to be functional.

    `training`, `dynamic_batch` and `difference` are for the caller to fill in (`dataclasses.replace`).
    """
    signature = exported.graph_signature
    lifted = {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }
    graph = exported.graph_module.graph
    for node in graph.nodes:
        node.meta["lifted"] = node.op == "placeholder" and node.name in lifted
    inline(exported.graph_module)
    unfollowed, overwritten = functionalise(graph)
    unfold(graph)
    blend(graph)
    module = GraphModule(exported.graph_module, graph)
    stored = {**exported.state_dict, **exported.constants}
    ops, outputs = data_flow(module, signature.inputs_to_parameters)
    return Program(
        graph=module,
        ops=ops,
        outputs=outputs,
        tensors={node: stored[fqn] for node, fqn in lifted.items() if isinstance(stored.get(fqn), Tensor)},
        parameters=dict(signature.inputs_to_parameters),
        buffers={node: fqn for node, fqn in lifted.items() if node not in signature.inputs_to_parameters},
        transient=frozenset({*signature.non_persistent_buffers, *signature.lifted_tensor_constants}),
        arguments=tuple(exported.module_call_graph[0].signature.forward_arg_names or ()),  # type: ignore[union-attr]
        inputs=tuple(n.name for n in graph.nodes if n.op == "placeholder" and n.name not in lifted),
        example=example,
        specs=(exported.call_spec.in_spec, exported.call_spec.out_spec),  # type: ignore[arg-type]
        name=name,
        training=False,
        dynamic_batch=False,
        difference=float("nan"),
        unfollowed=unfollowed,
        overwritten=overwritten,
    )


def data_flow(module: GraphModule, parameters: Mapping[str, str]) -> tuple[tuple[Op, ...], tuple[int, ...]]:
    """The ops of a functional graph, and which of them it returns; see `Program`."""
    flow = _Flow(parameters)
    outputs: tuple[int, ...] = ()
    for node in module.graph.nodes:
        if node.op == "output":
            returned = [flow.index[n] for n in node.all_input_nodes if n in flow.index]
            outputs = tuple(dict.fromkeys(returned))
        else:
            flow.visit(node)
    return tuple(flow.ops), outputs


class _Flow:
    """Collects the ops of a graph in one pass."""

    def __init__(self, parameters: Mapping[str, str]) -> None:
        self.parameters = parameters
        self.ops: list[Op] = []
        self.index: dict[Node, int] = {}
        self.learned: dict[Node, tuple[str, ...]] = {}  # computed from parameters alone -> their names
        self.real: set[Node] = set()  # depends on real-valued data
        self.zero: set[Node] = set()  # nothing but zeros, as a first state
        self.files: dict[str, str | None] = {}
        self.headings: dict[str, list[str]] = {}

    def visit(self, node: Node) -> None:
        if node.op == "placeholder":
            if node.name in self.parameters:
                self.learned[node] = (self.parameters[node.name],)
            elif not node.meta.get("lifted"):
                self._append(node, "input", "input", ())
                if _is_real(node):
                    self.real.add(node)
        elif node.op == "call_function":
            self._call(node)

    def _call(self, node: Node) -> None:
        name = ops.operator_name(node.target)
        operands = _tensor_operands(node)[ops.read_operands(name)]
        learned = tuple(dict.fromkeys(w for n in operands for w in self.learned.get(n, ())))
        data = tuple(i for i, n in enumerate(operands) if n in self.index and _carries(n, node, name))
        if ops.is_zero(name, [n in self.zero for n in operands]):
            self.zero.add(node)
            return
        if ops.is_value_independent(name) or not data:
            if learned:
                self.learned[node] = learned
            if any(n in self.real for n in operands) and not ops.is_value_independent(name):
                self.real.add(node)
            return
        steered = any(n in self.real for i, n in enumerate(operands) if i not in data)
        kind = ops.classify(name, data, learned=bool(learned), float_steered=steered)
        if node.target is operator.getitem:
            kind, name = self._part(operands[0])
        if _is_real(node) or any(operands[i] in self.real for i in data):
            self.real.add(node)
        self._append(node, name, kind, tuple(self.index[operands[i]] for i in data), learned)

    def _part(self, source: Node) -> tuple[Kind, str]:
        """Taking one tensor of several: a slice where a split made them, else just the operator's result."""
        name = ops.operator_name(source.target)
        split = any(word in name for word in ("split", "chunk", "unbind"))
        return ("resample", "slice") if split else ("view", "getitem")

    def _append(
        self, node: Node, target: str, kind: Kind, inputs: tuple[int, ...], weights: tuple[str, ...] = ()
    ) -> None:
        self.index[node] = len(self.ops)
        source = self._source(node)
        module = _module_path(node) or self._told(source)
        shape = _shape(node)
        self.ops.append(Op(len(self.ops), node.name, target, kind, inputs, module, source, shape, weights))

    def _told(self, source: str | None) -> str:
        """The module of which the file of a saved network says that a line is."""
        file, _, line = (source or ":0").rpartition(":")
        if file not in self.headings:
            self.headings[file] = paths_in(file)
        paths = self.headings[file]
        return paths[int(line) - 1] if 0 < int(line) <= len(paths) else ""

    def _source(self, node: Node) -> str | None:
        """The innermost line of the stack trace that is not torch's plumbing."""
        trace = node.meta.get("stack_trace")
        if not trace:
            return None
        if trace not in self.files:
            self.files[trace] = innermost_source(trace)
        return self.files[trace]


def _tensor_operands(node: Node) -> list[Node]:
    """Operands in argument order, with repeats (`x + x` has two), lists flattened."""
    operands: list[Node] = []
    torch.fx.map_arg((node.args, node.kwargs), lambda n: operands.append(n) or n)
    return operands


def _is_real(node: Node) -> bool:
    value = node.meta.get("val")
    if isinstance(value, (list, tuple)):
        value = next((each for each in value if isinstance(each, Tensor)), None)
    return isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex())


def _carries(operand: Node, node: Node, name: str) -> bool:
    """Whether an operand's values flow on, rather than steer: a mask chooses among data but is none.

    Token ids flow through integer operators and into an embedding; cast to real numbers (bytes of an image)
    they are data too, whereas a truth value is not.
    """
    if _is_real(operand) or not isinstance(operand.meta.get("val"), (Tensor, list, tuple)):
        return _is_real(operand)
    if not _is_real(node):
        return True
    value = operand.meta["val"]
    is_truth = isinstance(value, Tensor) and value.dtype == torch.bool
    return name.startswith("embedding") or (name in ("to", "_to_copy", "type_as") and not is_truth)


def _module_path(node: Node) -> str:
    stack = node.meta.get("nn_module_stack")
    if not stack:
        return ""
    path, _ = list(stack.values())[-1]
    return module_name(path)


def module_name(path: str) -> str:
    """ "layer.0" of torch.export's "L['self'].layer.0@1": a call after the first has a number."""
    return ".".join(part.split("@")[0] for part in path.removeprefix("L['self']").lstrip(".").split("."))


def _form(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """ "(tensor, tensor, mask=tensor)"."""
    named = [*(("", arg) for arg in args), *((f"{name}=", arg) for name, arg in kwargs.items())]
    return "(" + ", ".join(name + type(arg).__name__.lower() for name, arg in named) + ")"


def _shape(node: Node) -> tuple[int | None, ...]:
    value = node.meta.get("val")
    if not isinstance(value, Tensor):
        return ()
    # a symbolic size may have turned out to be fixed
    return tuple(size if isinstance(size, int) else size.node.maybe_as_int() for size in value.shape)
