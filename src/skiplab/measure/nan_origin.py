"""Where NaN and infinity come from."""

from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from skiplab.data.bound_batches import BoundBatch
from skiplab.graph.interpreter import Execution
from skiplab.graph.program import Program
from skiplab.graph.torch_compat import pytree


def find_origin(program: Program, given: BoundBatch) -> str:
    """A sentence that names the input, weight or layer where the first NaN of a pass, or else infinity, arises.

    From the first op with a NaN it goes back over operands that are not finite (an overflow becomes NaN only later),
    so that harmless minus infinities of a mask are not named.
    """
    for number, value in enumerate(program.flatten(given.args, given.kwargs)):
        if isinstance(value, Tensor) and value.is_floating_point() and not value.isfinite().all():
            rows = (~value.isfinite()).reshape(len(value) if value.ndim else 1, -1).any(1)
            bad = [str(i) for i in rows.nonzero().flatten().tolist()]
            some = ", ".join(bad[:5]) + (", …" if len(bad) > 5 else "")
            return f"input {number} holds NaN or infinity in sample {some} of the batch: clean the data"
    for node, name in program.parameters.items():
        if node in program.tensors and not program.tensors[node].isfinite().all():
            return f"the weight `{name}` holds NaN or infinity: it did before the measure"
    wrong = _Inspection(program, given).inspected()
    outputs = {program.ops[index].name for index in program.outputs}
    first = next((n for n, kind in wrong.items() if kind == "NaN"), None) or next(
        (n for n in wrong if n.name in outputs), None
    )
    if first is None:
        return (
            "the network's outputs are finite, so it arises in the loss function, or in the gradient of a root, norm "
            "or logarithm at zero"
        )
    origin = _origin(first, wrong)
    text = f"the first {wrong[origin]} arises in {_place(program, origin)}"
    if origin is not first:
        text += f", and becomes {wrong[first]} in {_place(program, first)}"
    return text + ": look for overflow, a logarithm or a root there"


class _Inspection(Execution):
    """A pass that records which nodes' values are not finite, and how, in the graph's order."""

    def __init__(self, program: Program, given: BoundBatch) -> None:
        super().__init__(program, given.args, given.kwargs)
        self.wrong: dict[Node, str] = {}

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        real = [t for t in pytree.tree_leaves(value) if isinstance(t, Tensor) and t.is_floating_point()]
        if n.op == "call_function" and not all(bool(t.isfinite().all()) for t in real):
            self.wrong[n] = "NaN" if any(bool(t.isnan().any()) for t in real) else "infinity"
        return value

    def inspected(self) -> dict[Node, str]:
        with torch.no_grad():
            self.finish()
        return self.wrong


def _origin(node: Node, wrong: dict[Node, str]) -> Node:
    while before := [operand for operand in node.all_input_nodes if operand in wrong]:
        node = before[0]
    return node


def _place(program: Program, node: Node) -> str:
    op = program.by_name.get(node.name)
    if op is None:
        return f"`{node.name}`"
    where = f" ({op.source})" if op.source else ""
    return f"`{op.module or op.name}`, operator {op.target}{where}"
