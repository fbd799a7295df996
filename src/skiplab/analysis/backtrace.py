"""The light way back from an operand of a merge: over operators that leave the signal what it is (DESIGN §2).

The walk crosses views, resampling, batch norm, at most one weight layer, and products with a gate. An activation,
a norm, a merge or any other product of data ends it.
"""

from dataclasses import dataclass, replace

from skiplab.analysis.skips import Shortcut
from skiplab.graph.ops import TRANSPARENT, op_info
from skiplab.graph.program import Op, Program
from skiplab.graph.slices import Position, are_two_signals, position


@dataclass(frozen=True, slots=True)
class Step:
    """A value on a walk.

    Attributes:
        value: index of the op.
        weights: weight layers crossed since the operand, 0 or 1.
        shortcut: what the way since then is.
        gates: indices of the values that multiply the signal on it.
        positions: the single positions (steps of a sequence) that it takes out of larger values.
    """

    value: int
    weights: int
    shortcut: Shortcut
    gates: tuple[int, ...] = ()
    positions: tuple[Position, ...] = ()


def walk(program: Program, operand: int) -> tuple[Step, ...]:
    """The values from a merge's operand back along its light way, itself first."""
    steps = [Step(operand, 0, "identity")]
    while (before := _before(program, steps[-1])) is not None:
        steps.append(before)
    return tuple(steps)


def route(program: Program, operand: int, fork: int) -> tuple[Op, ...]:
    """The ops on the light way from a fork to a merge's operand, the last first and without the fork."""
    ops = []
    for step in walk(program, operand):
        if step.value == fork:
            return tuple(ops)
        ops.append(program.ops[step.value])
    raise ValueError(f"no light way leads from {program.ops[fork].name} to {program.ops[operand].name}")


def gate(program: Program, op: Op) -> int | None:
    """Of a product of two values, the one that is a gate; None where neither is, or where that is undecided."""
    if op.kind != "product" or not op_info(op.target).multiplication or len(set(op.inputs)) != 2:
        return None
    for likelihood in ("usual", "possible"):
        gates = [operand for operand in op.inputs if op_info(_bounds(program, operand)).gate == likelihood]
        if gates:
            # A product of one signal with a function of itself is an activation: x · sigmoid(x).
            return gates[0] if len(gates) == 1 and are_two_signals(program, *op.inputs) else None
    return None


def _bounds(program: Program, index: int) -> str:
    """The activation that made a value, leaving out what only moves, scales or shifts it, such as 1 − g.

    A reciprocal is what it is taken of: 1 / (1 + exp(−x)) is a sigmoid in other words.
    """
    op = program.ops[index]
    while len(op.inputs) == 1 and (op.kind in ("view", "resample", "expand") or _is_reciprocal(op)):
        op = program.ops[op.inputs[0]]
    return op.target


def _is_reciprocal(op: Op) -> bool:
    return op.target == "reciprocal" or op_info(op.target).division


def _before(program: Program, step: Step) -> Step | None:
    op = program.ops[step.value]
    by = gate(program, op)
    if by is not None:
        value = next(operand for operand in op.inputs if operand != by)
        return replace(step, value=value, shortcut="gated", gates=(*step.gates, by))
    if len(op.inputs) != 1 or not (op.kind in TRANSPARENT or (op.kind == "weight" and not step.weights)):
        return None
    shortcut = step.shortcut
    if shortcut != "gated" and op.kind in ("weight", "batch_norm"):
        shortcut = "projection"
    elif shortcut == "identity" and op.kind == "resample":
        shortcut = "resample"
    taken = position(program, op)
    positions = step.positions if taken is None else (*step.positions, taken)
    return Step(op.inputs[0], step.weights + (op.kind == "weight"), shortcut, step.gates, positions)
