"""The same network in a faster form, for measures that run it many times."""

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from skiplab.analysis.skips import Skips
from skiplab.data.bound_batches import Batch
from skiplab.graph.interpreter import Execution
from skiplab.graph.ops import WEIGHT_LAYERS, op_info, operator_name
from skiplab.graph.program import Program
from skiplab.graph.rng import isolated_rng
from skiplab.graph.torch_compat import is_mutable, pytree
from skiplab.measure.batches import Loss
from skiplab.measure.fold import fold
from skiplab.measure.lesion import lesion
from skiplab.training.precision import has_bfloat16_units

aten = torch.ops.aten
_IN_ANY_LAYOUT = {
    aten.view.default: aten.reshape.default,
    aten._unsafe_view.default: aten.reshape.default,
    aten.view_as.default: aten.reshape_as.default,
}


def faster(program: Program, dtype: torch.dtype | None = None) -> Program:
    """The program in a form that takes less time: hand it to a measure instead, with the same skips and batches.

    - Batch norm is folded into the convolution or linear layer that only it reads.
    - Weight layers and matrix products compute in `dtype`, and what follows takes their results as they are. Casts
      that the network itself makes and the statistics of batch norm stay; so does, in the network's own type, what
      cannot be computed in the other. The output has the type that it had.
    - Images are kept with their channels last.

    What does not apply to a network, or fails on its example, is left out. Results deviate by rounding, `deviation`
    tells how far. The program has copies of the weights, as they are now.

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


def deviation(
    program: Program, fast: Program, skips: Skips, batches: Iterable[Batch], loss: Loss, lesions: int = 3
) -> float:
    """What the speed costs: largest absolute deviation of a `loss_change` between the fast and the exact program.

    Over `lesions` skips spread over the network, on the first batch alone; in the loss's unit. NaN where a lesioned
    network's loss is no number.
    """
    some = skips[:: max(1, len(skips) // lesions)][:lesions]
    first = list(islice(batches, 1))
    exact, other = (lesion(each, some, first, loss)["loss_change"] for each in (program, fast))
    return float((exact - other).abs().max(skipna=False))


def _copied(program: Program) -> Graph:
    """Of the same names, which a copy of a graph changes where they are Python's own, such as `input`."""
    graph = copy.deepcopy(program.graph.graph)
    for node, original in zip(graph.nodes, program.graph.graph.nodes, strict=True):
        node.name = original.name
    return graph


def _converted(program: Program, learned: set[str], dtype: torch.dtype) -> Program:
    graph = _copied(program)
    tensors = dict(program.tensors)
    strided = any(node.target is aten.as_strided.default for node in graph.nodes)  # it counts on one layout
    for node in list(graph.nodes):
        node.target = _IN_ANY_LAYOUT.get(node.target, node.target)
        if node.name in learned:
            tensors[node.name] = _stored(node, tensors[node.name], dtype, channels_last=not strided)
        elif node.target is aten._assert_tensor_metadata.default:  # held of the types as they were
            graph.erase_node(node)
        elif node.op == "output":
            _keep_types(graph, node)
    return replace(program, graph=GraphModule(program.graph, graph), tensors=tensors)


def _stored(node: Node, weight: Tensor, dtype: torch.dtype, channels_last: bool) -> Tensor:
    readers = {operator_name(reader.target) for reader in node.users}
    weight = weight.detach()
    if weight.is_floating_point() and readers != {"batch_norm"}:  # which takes its statistics more exactly
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
    """Settles for each operator in which type it gets its operands; whether the example then has a finite output."""
    trial = _Trial(program, own, dtype)
    try:
        with torch.no_grad(), isolated_rng():  # the network may draw noise
            output = pytree.tree_leaves(trial.finish())
    except Exception:  # of whatever kind a backend raises
        return False
    return all(bool(value.isfinite().all()) for value in output if isinstance(value, Tensor))


@dataclass(frozen=True)
class _In:
    """An operator whose operands of type `given` come to it as `wanted`; contiguous, if it needs them so.

    Inside the operator's node, since a node of its own would stand between a merge and its operands.
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
    """A pass over the example that settles for each operator in which type it gets its operands, and tries it."""

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
        except Exception:  # of whatever kind: a product that this type has no kernel for, types that do not mix, …
            if is_mutable(target):
                raise
            n.target = _In(target, self.dtype, self.own, contiguous=True)
            return super().run_node(n)

    def _multiplies(self, node: Node) -> bool:
        op = self.program.by_name.get(node.name)
        return op is not None and (op.kind in WEIGHT_LAYERS or op_info(op.target).contraction)
