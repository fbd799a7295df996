"""Build a `Program` from a captured graph: make the graph functional, then derive the data flow."""

import operator
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from skiplab.graph import ops
from skiplab.graph.decompose import expand_blends, unfold
from skiplab.graph.functionalize import functionalize
from skiplab.graph.graph_parts import GraphParts
from skiplab.graph.inputs import Inputs
from skiplab.graph.ops import Kind, Op
from skiplab.graph.program import Program
from skiplab.graph.source_map import SourceMap
from skiplab.graph.torch_compat import lazy_graph_module


def program_of(parts: GraphParts, name: str, example: Inputs) -> Program:
    """The program of a captured network, whose graph is changed in place.

    The caller fills in `training` and `difference` (`dataclasses.replace`).
    """
    graph = parts.module.graph
    unfollowed, overwritten = functionalize(graph)
    unfold(graph)
    expand_blends(graph)
    module = lazy_graph_module(parts.module, graph)
    ops, outputs = data_flow(module, parts.parameters)
    return Program(
        graph=module,
        ops=ops,
        outputs=outputs,
        tensors=parts.tensors,
        parameters=parts.parameters,
        buffers=parts.buffers,
        transient=parts.transient,
        arguments=parts.arguments,
        inputs=tuple(n.name for n in graph.nodes if n.op == "placeholder" and not n.meta["lifted"]),
        example=example,
        specs=parts.specs,
        name=name,
        training=False,
        dynamic_batch=parts.dynamic_batch,
        difference=float("nan"),
        unfollowed=unfollowed,
        overwritten=overwritten,
        reads=parts.reads,
    )


def data_flow(module: GraphModule, parameters: Mapping[str, str]) -> tuple[tuple[Op, ...], tuple[int, ...]]:
    """The ops of a functional graph, and the indices of those that it returns; see `Program`.

    Args:
        module: the graph.
        parameters: placeholder name -> the parameter's name in the model.
    """
    flow = _DataFlow(parameters)
    outputs: tuple[int, ...] = ()
    for node in module.graph.nodes:
        if node.op == "output":
            returned = [flow.index[n] for n in node.all_input_nodes if n in flow.index]
            outputs = tuple(dict.fromkeys(returned))
        else:
            flow.visit(node)
    return tuple(flow.ops), outputs


class _DataFlow:
    """Collects the ops of a graph in one pass over its nodes."""

    def __init__(self, parameters: Mapping[str, str]) -> None:
        self.parameters = parameters
        self.ops: list[Op] = []
        self.index: dict[Node, int] = {}
        self.learned: dict[Node, tuple[str, ...]] = {}  # computed from parameters alone -> their names
        self.real: set[Node] = set()  # depends on real-valued data
        self.zero: set[Node] = set()  # all zeros, as a recurrent network's first state
        self.source_map = SourceMap()

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
        name, info = ops.operator_name(node.target), ops.op_info(node)
        operands = _tensor_operands(node)[ops.read_operands(name)]
        learned = tuple(dict.fromkeys(w for n in operands for w in self.learned.get(n, ())))
        data = tuple(i for i, n in enumerate(operands) if n in self.index and _carries(n, node))
        if ops.is_zero(name, [n in self.zero for n in operands]):
            self.zero.add(node)
            return
        if info.value_independent or not data:
            if learned:
                self.learned[node] = learned
            if any(n in self.real for n in operands) and not info.value_independent:
                self.real.add(node)
            return
        steered = any(n in self.real for i, n in enumerate(operands) if i not in data)
        kind = ops.classify(name, data, learned=bool(learned), float_steered=steered)
        if node.target is operator.getitem:  # one tensor of several
            kind, name = ("resample", "slice") if ops.op_info(operands[0]).split else ("view", "getitem")
        if _is_real(node) or any(operands[i] in self.real for i in data):
            self.real.add(node)
        self._append(node, name, kind, tuple(self.index[operands[i]] for i in data), learned)

    def _append(
        self, node: Node, target: str, kind: Kind, inputs: tuple[int, ...], weights: tuple[str, ...] = ()
    ) -> None:
        self.index[node] = index = len(self.ops)
        module, source = self.source_map.module(node), self.source_map.source(node)
        self.ops.append(Op(index, node.name, target, kind, inputs, module, source, _shape(node), weights))


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


def _carries(operand: Node, node: Node) -> bool:
    """Whether an operand's values flow on. A mask chooses among data and is none itself.

    Token ids flow through integer operators and into an embedding. Cast to real numbers (bytes of an image) they are
    data too; a cast truth value is not.
    """
    if _is_real(operand) or not isinstance(operand.meta.get("val"), (Tensor, list, tuple)):
        return _is_real(operand)
    if not _is_real(node):
        return True
    value = operand.meta["val"]
    is_truth = isinstance(value, Tensor) and value.dtype == torch.bool
    info = ops.op_info(node)
    return info.embedding or (info.cast and not is_truth)


def _shape(node: Node) -> tuple[int | None, ...]:
    value = node.meta.get("val")
    if not isinstance(value, Tensor):
        return ()
    # a symbolic size may have turned out to be fixed
    return tuple(size if isinstance(size, int) else size.node.maybe_as_int() for size in value.shape)
