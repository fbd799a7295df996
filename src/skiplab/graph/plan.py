"""The schedule of a graph, which all passes through it share."""

from collections.abc import Iterator, Mapping

from torch import Tensor
from torch.fx import Graph, Node

from skiplab.graph.functionalize import viewed_operand
from skiplab.graph.ops import op_info
from skiplab.graph.torch_compat import schema_of


class Plan:
    """The order of execution, and which values to drop when.

    Attributes:
        nodes: in order of execution.
        index: name of a node -> its place in `nodes`.
        dies: for each node, the nodes whose values nothing reads after it.
        mutated: names of the placeholders that running the graph overwrites: a training graph's batch statistics.
    """

    def __init__(self, graph: Graph, tensors: Mapping[str, Tensor]) -> None:
        self.nodes: list[Node] = list(graph.nodes)
        self.index = {node.name: position for position, node in enumerate(self.nodes)}
        last: dict[Node, int] = {}
        for position, node in enumerate(self.nodes):
            last[node] = position  # never read: dropped at once
            for operand in node.all_input_nodes:
                last[operand] = position
        self.dies: list[list[Node]] = [[] for _ in self.nodes]
        for node, position in last.items():
            self.dies[position].append(node)
        self.mutated = frozenset(name for node in self.nodes for name in _written(node) if name in tensors)


def _written(node: Node) -> Iterator[str]:
    """Names of the nodes whose memory an operator writes to. The schema of batch norm does not declare its writes."""
    schema = schema_of(node.target)
    if schema is None:
        return
    statistics = op_info(node).running_statistics
    for operand, argument in zip(node.args, schema.arguments, strict=False):
        written = argument.alias_info is not None and argument.alias_info.is_write
        if written or (statistics and argument.name.startswith("running_")):
            while isinstance(operand, Node) and (base := viewed_operand(operand)) is not None:
                operand = base
            if isinstance(operand, Node):
                yield operand.name
