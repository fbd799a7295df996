"""Drop-path (stochastic depth) in a training graph: a product of data with a random mask of one number per sample."""

from torch import Tensor
from torch.fx import Node

from skiplab.graph.ops import draws_random_numbers, is_scale
from skiplab.graph.program import Program

REFERENCE = "Huang et al. 2016, Deep Networks with Stochastic Depth, §3"


def drop_paths(program: Program) -> dict[str, str]:
    """The products with a random mask per sample (or one for the whole batch): name of the op -> name of the mask."""
    random: set[Node] = set()
    found: dict[str, str] = {}
    for node in program.graph.graph.nodes:
        if node.op != "call_function":
            continue
        op = program.by_name.get(node.name)
        masks = [each for each in node.all_input_nodes if each in random]
        if op is None and (masks or draws_random_numbers(node)):
            random.add(node)
        elif op is not None and is_scale(op.target) and len(op.inputs) == 1:
            found.update((op.name, mask.name) for mask in masks if _is_per_sample(mask))
    return found


def _is_per_sample(mask: Node) -> bool:
    value = mask.meta.get("val")
    return isinstance(value, Tensor) and all(isinstance(size, int) and size == 1 for size in value.shape[1:])
