"""Where a network's real numbers begin: its real-valued inputs, and for tokens what their embeddings make of them."""

from collections.abc import Callable, Mapping

from torch import Tensor

from skiplab.errors import UsageError
from skiplab.graph.interpreter import Edge, Patch
from skiplab.graph.ops import op_info
from skiplab.graph.program import Op, Program


def starts(program: Program) -> tuple[Op, ...]:
    """The real-valued inputs that lead to an output and have samples (a mask that all share has none).

    In a network of tokens alone, the embeddings of inputs.
    """
    useful = [op for op in program.ops if op.index in program.useful]
    inputs = [op for op in useful if op.kind == "input"]
    real = [op for op in inputs if is_real(program, op) and (None in op.shape or not program.dynamic_batch)]
    if not real:
        real = [op for op in useful if op_info(op.target).embedding and op.inputs]
    if not real:
        raise UsageError(
            f"{program.name} has neither a real-valued input nor an embedding of one that leads to its output, so "
            "there is nothing by which to differentiate"
        )
    return tuple(real)


def replacing(program: Program, ops: tuple[Op, ...], change: Callable[[Op, Tensor], Tensor]) -> Mapping[Edge, Patch]:
    """Patches by which all readers of these ops get what `change` makes of their value, once in a pass."""
    changed: dict[int, Tensor] = {}

    def patch(op: Op) -> Patch:
        def once(value: Tensor) -> Tensor:
            if op.index not in changed:
                changed[op.index] = change(op, value)
            return changed[op.index]

        return once

    return {(program.ops[reader].name, op.name): patch(op) for op in ops for reader in program.users[op.index]}


def is_real(program: Program, op: Op) -> bool:
    """Whether an op's value is one tensor of real numbers."""
    value = program.nodes[op.name].meta.get("val")
    return isinstance(value, Tensor) and value.is_floating_point()
