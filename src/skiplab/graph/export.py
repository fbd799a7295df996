"""The graph of a model from `torch.export`: sizes other than the batch may be symbols, and no value is needed."""

import contextlib
import inspect
import io
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from skiplab.graph.graph_parts import GraphParts
from skiplab.graph.inline import inline
from skiplab.graph.inputs import Inputs
from skiplab.graph.rng import reseed
from skiplab.graph.torch_compat import distinct_dropout_outputs, pytree, whole_stack_traces


def exported_parts(model: nn.Module, example: Inputs) -> GraphParts:
    """The graph with a free batch size, or if that fails with the example's sizes; raises what torch raises."""
    program, dynamic = exported(model, example)
    signature = program.graph_signature
    lifted = {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }
    for node in program.graph_module.graph.nodes:
        node.meta["lifted"] = node.op == "placeholder" and node.name in lifted
    inline(program.graph_module)
    stored = {**program.state_dict, **program.constants}
    return GraphParts(
        module=program.graph_module,
        parameters=dict(signature.inputs_to_parameters),
        buffers={node: fqn for node, fqn in lifted.items() if node not in signature.inputs_to_parameters},
        transient=frozenset({*signature.non_persistent_buffers, *signature.lifted_tensor_constants}),
        tensors={node: stored[fqn] for node, fqn in lifted.items() if isinstance(stored.get(fqn), Tensor)},
        arguments=tuple(program.module_call_graph[0].signature.forward_arg_names or ()),  # type: ignore[union-attr]
        specs=(program.call_spec.in_spec, program.call_spec.out_spec),  # type: ignore[arg-type]
        dynamic_batch=dynamic,
    )


def exported(model: nn.Module, example: Inputs) -> tuple[ExportedProgram, bool]:
    """Exports with a free batch size, or if that fails with the example's sizes; raises what torch raises.

    Returns:
        The exported program, and whether its batch size is free.
    """
    failure: Exception | None = None
    for (args, kwargs), free in ((_widened(example), True), (example, False)):
        try:
            reseed()
            shapes = _free_batch(model, args, kwargs) if free else None
            # a failing export prints its graph
            with whole_stack_traces(), distinct_dropout_outputs(), contextlib.redirect_stderr(io.StringIO()):
                graph = torch.export.export(model, args, kwargs, strict=False, dynamic_shapes=shapes)
        except Exception as error:
            failure = error
            continue
        dynamic = free and bool(graph.range_constraints)
        if dynamic or args is example[0]:  # else the graph is specialized to the repeated batch
            return graph, dynamic
    assert failure is not None
    raise failure


def _widened(example: Inputs) -> Inputs:
    """The example with its batch repeated to two, if all tensors are batches of one, since torch takes 1 as fixed."""
    tensors = [leaf for leaf in pytree.tree_leaves(example) if isinstance(leaf, Tensor)]
    if not tensors or any(t.ndim == 0 or t.shape[0] != 1 for t in tensors):
        return example
    return pytree.tree_map_only(Tensor, lambda t: torch.cat([t, t]), example)


def _free_batch(model: nn.Module, args: tuple, kwargs: dict) -> dict[str, Any]:
    """`dynamic_shapes` for `torch.export`, by the names of `forward`'s parameters."""
    arguments = inspect.signature(model.forward).bind(*args, **kwargs).arguments

    def free(leaf: Any) -> Any:
        return {0: Dim.AUTO} if isinstance(leaf, Tensor) and leaf.ndim and leaf.shape[0] > 1 else None

    return pytree.tree_map(free, dict(arguments))
