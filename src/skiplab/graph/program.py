"""A captured network: its graph, the flow of data through it, and the tensors it shares with the model."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor, nn
from torch.fx import GraphModule, Node

from skiplab.errors import UsageError
from skiplab.graph.codegen import Code, code_of
from skiplab.graph.inputs import Inputs
from skiplab.graph.layout import Layout, layouts
from skiplab.graph.module import NameChanges, ProgramModule, build_module
from skiplab.graph.ops import Op, op_info
from skiplab.graph.origins import origins
from skiplab.graph.plan import Plan
from skiplab.graph.torch_compat import FakeTensor, pytree


@dataclass(frozen=True, eq=False)
class Program:
    """A network as a data-flow graph, bound to the model's own parameters (shared, not copied).

    Attributes:
        graph: the functional graph; parameters and buffers are its first placeholders.
        ops: the data flow: one `Op` for each node that carries data. Parameters, shapes, constants and what is computed
            from these alone are left out.
        outputs: indices of the ops that the network returns, in order.
        tensors: placeholder name -> the model's parameter, buffer or constant.
        parameters: placeholder name -> the parameter's name in the model.
        buffers: placeholder name -> the buffer's or constant's name in the model.
        transient: names of buffers and constants that the model's state dict does not hold.
        inputs: names of the placeholders that take the user's inputs, flattened.
        arguments: names of the parameters of the model's `forward` that the example fills.
        example: the (args, kwargs) with which the model was captured.
        specs: how torch flattens (args, kwargs) to `inputs`, and the output to a list: two pytree specs.
        name: the model's class.
        training: whether this is the training graph.
        dynamic_batch: whether the first dimension of the inputs may vary.
        difference: largest absolute difference between the outputs of graph and model on the example; NaN
            where they could not be compared.
        unfollowed: names of in-place writes that the data flow could not follow.
        overwritten: name of each followed in-place write -> names of the views taken before it and read after it.
        train_only: paths of modules that act in training alone and leave no trace in an inference graph: drop-path,
            dropout inside an attention operator.
        removed: names in the captured model's state dict that an edit removed from this network.
        added: names that an edit added.
        rewritten: names of tensors into which an edit folded others.
        reads: where Python read values of the data ("`item` at net.py:12"): the graph holds for such values alone.
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
    example: Inputs = field(repr=False)
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
    reads: tuple[str, ...] = ()

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
        """The ops by name."""
        return {op.name: op for op in self.ops}

    @cached_property
    def origins(self) -> list[frozenset[int]]:
        """For each op, the layers, merges and inputs that its value is computed from; see `skiplab.graph.origins`."""
        return origins(self.ops)

    @cached_property
    def layouts(self) -> tuple[Layout, ...]:
        """For each op, the dimensions that hold samples, channels and positions; see `skiplab.graph.layout`."""
        return layouts(self.graph.graph, self.ops)

    @cached_property
    def growing(self) -> frozenset[int]:
        """Indices of the ops that raise the resolution: upsampling, transposed convolution, pixel shuffle."""
        return frozenset(op.index for op in self.ops if op.inputs and _grows(op, self.ops[op.inputs[0]]))

    @cached_property
    def has_modules(self) -> bool:
        """Whether any op has a module path; generated code has none."""
        return any(op.module for op in self.ops)

    @cached_property
    def size(self) -> int:
        """Number of entries of all parameters; tied ones count once."""
        parameters = (self.tensors[node] for node in self.parameters if node in self.tensors)
        return sum(tensor.numel() for tensor in {id(tensor): tensor for tensor in parameters}.values())

    @cached_property
    def has_values(self) -> bool:
        """Whether tensors and example hold numbers: none is on the meta device or a fake tensor."""
        tensors = (*self.tensors.values(), *pytree.tree_leaves(self.example))
        return not any(isinstance(t, Tensor) and (t.is_meta or isinstance(t, FakeTensor)) for t in tensors)

    @cached_property
    def nodes(self) -> Mapping[str, Node]:
        """The graph's nodes by name."""
        return {node.name: node for node in self.graph.graph.nodes}

    @cached_property
    def plan(self) -> Plan:
        """The order of execution, which all passes share."""
        return Plan(self.graph.graph, self.tensors)

    @cached_property
    def code(self) -> Code:
        """The source of `module`'s `forward`."""
        names = {**self.parameters, **self.buffers}
        return code_of(self.graph.graph, names, self.specs, self.arguments, training=self.training)

    def require_inference(self, why: str) -> None:
        """UsageError for a training graph.

        Args:
            why: what is wrong with it: "whose batch norms cannot be folded".
        """
        if self.training:
            raise UsageError(
                f"{self.name} was captured as a training graph, {why}: capture it without train=True (--train)"
            )

    def require_values(self, why: str) -> None:
        """UsageError for a program without values.

        Args:
            why: what needs them: "which a proof needs".
        """
        if not self.has_values:
            raise UsageError(
                f"{self.name} was captured without values, {why}: capture it off the meta device (leave out --meta)"
            )

    def flatten(self, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None) -> list[Any]:
        """The user's inputs in the order of `inputs`; UsageError when they do not have the captured form."""
        try:
            return self.specs[0].flatten_up_to((tuple(args), dict(kwargs or {})))
        except ValueError as error:
            raise UsageError(
                f"{self.name} takes {_form(*self.example)} as captured, got {_form(args, kwargs or {})}: {error}"
            ) from None

    def module(self) -> ProgramModule:
        """The network as a module of its own, in evaluation mode, with copies of the program's tensors.

        Tensors have the model's names, so that its checkpoints load; ties and `requires_grad` are kept. Batch norm and
        dropout follow the module's mode. What acts in training alone and leaves no trace in an inference graph
        (`train_only`) is gone, and decisions that `forward` took in Python are fixed as captured. The counters of batch
        norms do not advance, so that a batch norm with momentum=None keeps its statistics.
        """
        names = {**self.parameters, **self.buffers}
        copies: dict[int, Tensor] = {}
        for tensor in self.tensors.values():
            copies.setdefault(id(tensor), _copied(tensor))
        tensors = [(name, copies[id(self.tensors[node])], name not in self.transient) for node, name in names.items()]
        return build_module(self.name, self.code, tensors, NameChanges(self.removed, self.added, self.rewritten))

    def unflatten(self, values: list[Any]) -> Any:
        """The network's output in the form in which the model returns it."""
        return pytree.tree_unflatten(values, self.specs[1])


def _copied(tensor: Tensor) -> Tensor:
    copy = tensor.detach().clone()
    return nn.Parameter(copy, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else copy


def _grows(op: Op, before: Op) -> bool:
    """Whether an op raises the resolution: a transposed convolution of stride 1 does not."""
    return op_info(op.target).raises_resolution and _positions(op) > _positions(before)


def _positions(op: Op) -> int:
    return math.prod(size for size in op.shape[2:] if size is not None)


def _form(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """ "(tensor, tensor, mask=tensor)"."""
    named = [*(("", arg) for arg in args), *((f"{name}=", arg) for name, arg in kwargs.items())]
    return "(" + ", ".join(name + type(arg).__name__.lower() for name, arg in named) + ")"
