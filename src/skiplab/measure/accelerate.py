"""The same network in a faster form, for measures that run it many times."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from skiplab.graph.interpreter import Execution
from skiplab.graph.ops import WEIGHT_LAYERS, op_info, operator_name
from skiplab.graph.program import Program
from skiplab.graph.rng import isolated_rng
from skiplab.graph.torch_compat import pytree
from skiplab.measure.fold import fold
from skiplab.training.precision import has_bfloat16_units

aten = torch.ops.aten
_IN_ANY_LAYOUT = {
    aten.view.default: aten.reshape.default,
    aten._unsafe_view.default: aten.reshape.default,
    aten.view_as.default: aten.reshape_as.default,
}


def faster(program: Program, dtype: torch.dtype | None = None) -> Program:
    """The same network as a program that runs faster: give it to a measure, with the same skips and batches.

    - Batch norm is folded into the convolution or linear layer that only it reads.
    - Weight layers and matrix products compute in `dtype`, and later ops take their results in that type. Casts of
      the network itself and the statistics of batch norm keep their type, and so do ops without a kernel for `dtype`.
      The output keeps its type.
    - Images are stored with channels last.

    Steps that do not apply to a network, or fail on its example, are left out. Results differ by rounding;
    `skiplab.measure.lesion.deviation` measures by how much. The program has copies of the current weights.

    Args:
        program: an inference graph.
        dtype: by default bfloat16 where the hardware computes in it natively (`training.precision.has_bfloat16_units`),
            else the network's own.
    """
    program.require_inference("whose batch norms cannot be folded")
    graph = _copied(program)
    new = fold(graph, program.tensors)
    folded = replace(program, graph=GraphModule(program.graph, graph), tensors={**program.tensors, **new})
    learned = {*program.parameters, *new}
    real = [folded.tensors[name] for name in learned if folded.tensors[name].is_floating_point()]
    if len({weight.dtype for weight in real}) != 1 or program.unfollowed:
        return folded
    own = real[0].dtype
    if dtype is None:
        dtype = torch.bfloat16 if has_bfloat16_units(real[0].device) else own
    fast = _converted(folded, learned, dtype)
    return fast if _runs(fast, own, dtype) else folded


def _copied(program: Program) -> Graph:
    """A copy with the same node names: `deepcopy` renames those that are Python's own, such as `input`."""
    graph = copy.deepcopy(program.graph.graph)
    for node, original in zip(graph.nodes, program.graph.graph.nodes, strict=True):
        node.name = original.name
    return graph


def _converted(program: Program, learned: set[str], dtype: torch.dtype) -> Program:
    graph = _copied(program)
    tensors = dict(program.tensors)
    strided = any(node.target is aten.as_strided.default for node in graph.nodes)  # it assumes one layout
    for node in list(graph.nodes):
        node.target = _IN_ANY_LAYOUT.get(node.target, node.target)
        if node.name in learned:
            tensors[node.name] = _stored(node, tensors[node.name], dtype, channels_last=not strided)
        elif node.target is aten._assert_tensor_metadata.default:  # it asserts the old types
            graph.erase_node(node)
        elif node.op == "output":
            _keep_types(graph, node)
    return replace(program, graph=GraphModule(program.graph, graph), tensors=tensors)


def _stored(node: Node, weight: Tensor, dtype: torch.dtype, channels_last: bool) -> Tensor:
    readers = {operator_name(reader.target) for reader in node.users}
    weight = weight.detach()
    if weight.is_floating_point() and readers != {"batch_norm"}:  # its statistics stay in full precision
        weight = weight.to(dtype)
    if channels_last and "conv2d" in readers and weight.ndim == 4:
        weight = weight.contiguous(memory_format=torch.channels_last)
    return weight


def _keep_types(graph: Graph, output: Node) -> None:
    def kept(value: Node) -> Node:
        before = value.meta.get("val")
        if not isinstance(before, Tensor) or not before.is_floating_point():
            return value
        with graph.inserting_before(output):
            return graph.call_function(aten.to.dtype, (value, before.dtype))

    output.args = torch.fx.map_arg(output.args, kept)


def _runs(program: Program, own: torch.dtype, dtype: torch.dtype) -> bool:
    """Chooses for each operator the type of its operands; returns whether the output on the example is then finite."""
    trial = _Trial(program, own, dtype)
    try:
        with torch.no_grad(), isolated_rng():  # the network may draw noise
            output = pytree.tree_leaves(trial.finish())
    except Exception:  # backends raise errors of any type
        return False
    return all(bool(value.isfinite().all()) for value in output if isinstance(value, Tensor))


@dataclass(frozen=True)
class _In:
    """An operator that casts its operands of type `given` to `wanted`, and makes them contiguous if it needs that.

    The cast is part of the operator's node, since a node of its own would stand between a merge and its operands.
    """

    target: Callable[..., Any]
    given: torch.dtype
    wanted: torch.dtype
    contiguous: bool = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        args, kwargs = pytree.tree_map_only(Tensor, self._cast, (args, kwargs))
        return self.target(*args, **kwargs)

    def _cast(self, value: Tensor) -> Tensor:
        value = value.to(self.wanted) if value.dtype == self.given else value
        return value.contiguous() if self.contiguous else value


class _Trial(Execution):
    """A pass over the example that chooses for each operator the type of its operands, and runs it."""

    def __init__(self, program: Program, own: torch.dtype, dtype: torch.dtype) -> None:
        args, kwargs = program.example
        super().__init__(program, args, kwargs)
        self.own, self.dtype = own, dtype

    def run_node(self, n: Node) -> Any:
        if n.op != "call_function":
            return super().run_node(n)
        target: Any = n.target
        if self.dtype != self.own and self._multiplies(n):
            n.target = _In(target, self.own, self.dtype)
        try:
            return super().run_node(n)
        except Exception:  # of any type: no kernel for a product in this dtype, dtypes that do not mix, …
            schema = getattr(target, "_schema", None)
            if schema is not None and schema.is_mutable:
                raise
            n.target = _In(target, self.dtype, self.own, contiguous=True)
            return super().run_node(n)

    def _multiplies(self, node: Node) -> bool:
        op = self.program.by_name.get(node.name)
        return op is not None and (op.kind in WEIGHT_LAYERS or op_info(op.target).contraction)
