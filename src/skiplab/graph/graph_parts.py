"""What a captured network consists of before its graph is functional: what recording and `torch.export` both give."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor
from torch.fx import GraphModule

from skiplab.graph.torch_compat import pytree


@dataclass(frozen=True, eq=False)
class GraphParts:
    """A network as a graph with its tensors as placeholders; `Program` describes the fields.

    Attributes:
        module: the graph, in which in-place operators are as written.
        parameters, buffers, transient, tensors, arguments, specs, dynamic_batch: as in `Program`.
        reads: as in `Program`.
    """

    module: GraphModule
    parameters: Mapping[str, str]
    buffers: Mapping[str, str]
    transient: frozenset[str]
    tensors: Mapping[str, Tensor]
    arguments: tuple[str, ...]
    specs: tuple[pytree.TreeSpec, pytree.TreeSpec]
    dynamic_batch: bool
    reads: tuple[str, ...] = ()
