"""The values that a network can be differentiated by: its real-valued inputs, or the embeddings of its tokens."""

from collections.abc import Callable, Mapping

from torch import Tensor

from skiplab.errors import UsageError
from skiplab.graph.interpreter import Edge, Patch
from skiplab.graph.ops import op_info
from skiplab.graph.program import Op, Program


def input_leaves(program: Program) -> tuple[Op, ...]:
    """The real-valued inputs that lead to an output and have a batch dimension (a shared mask has none).

    In a network whose inputs are all tokens, their embeddings.
    """
    useful = [op for op in program.ops if op.index in program.useful]
    inputs = [op for op in useful if op.kind == "input"]
    real = [op for op in inputs if is_real(program, op) and program.layouts[op.index].samples is not None]
    if not real:
        real = [op for op in useful if op_info(op.target).embedding and op.inputs]
    if not real:
        raise UsageError(
            f"{program.name} has neither a real-valued input nor an embedding of one that leads to its output, so "
            "there is nothing to differentiate by"
        )
    return tuple(real)


def replace_values(
    program: Program, ops: tuple[Op, ...], change: Callable[[Op, Tensor], Tensor]
) -> Mapping[Edge, Patch]:
    """Patches that give all readers of these ops `change(op, value)`, computed once in a pass."""
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
