"""Tracing back from an operand of a merge to the values that it carries.

`ShortcutTraces` follow the definition of a shortcut (DESIGN §2): views, resampling, batch norm, at most one weight
layer, and products with a gate. An activation, a norm, a merge or any other product of data ends the trace.

`trace_chain` is for lint rules, which look for shortcuts with an unwanted op on them: it crosses the same operators
except gates, and the kinds of op that a rule adds.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from skiplab.analysis.skips import Shortcut
from skiplab.graph.ops import TRANSPARENT, Kind, op_info
from skiplab.graph.program import Op, Program
from skiplab.graph.slices import Position, are_two_signals, position


@dataclass(frozen=True, slots=True)
class ShortcutStep:
    """A value on the trace of a shortcut: the fork, if the shortcut starts here.

    Attributes:
        value: index of the op.
        weights: weight layers between this value and the operand, 0 or 1.
        shortcut: kind of the shortcut from this value to the operand.
        gates: indices of the values that multiply the signal on the shortcut.
        positions: the single positions (steps of a sequence) that the shortcut takes out of larger values.
    """

    value: int
    weights: int
    shortcut: Shortcut
    gates: tuple[int, ...] = ()
    positions: tuple[Position, ...] = ()


class ShortcutTraces:
    """The traces of a program's operands and the gates on them, each computed once."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self._traces: dict[int, tuple[ShortcutStep, ...]] = {}
        self._gates: dict[int, int | None] = {}

    def trace(self, operand: int) -> tuple[ShortcutStep, ...]:
        """The values that a shortcut ending in this operand may start from; the operand itself comes first."""
        if operand not in self._traces:
            steps = [ShortcutStep(operand, 0, "identity")]
            while (before := self._step_before(steps[-1])) is not None:
                steps.append(before)
            self._traces[operand] = tuple(steps)
        return self._traces[operand]

    def gate(self, op: Op) -> int | None:
        """The gate among the two factors of a product; None where neither is one, or where that is undecided."""
        if op.index not in self._gates:
            self._gates[op.index] = _gate_of(self.program, op)
        return self._gates[op.index]

    def _step_before(self, step: ShortcutStep) -> ShortcutStep | None:
        op = self.program.ops[step.value]
        gate = self.gate(op)
        if gate is not None:
            value = next(operand for operand in op.inputs if operand != gate)
            return replace(step, value=value, shortcut="gated", gates=(*step.gates, gate))
        if len(op.inputs) != 1 or not (op.kind in TRANSPARENT or (op.kind == "weight" and not step.weights)):
            return None
        shortcut = step.shortcut
        if shortcut != "gated" and op.kind in ("weight", "batch_norm"):
            shortcut = "projection"
        elif shortcut == "identity" and op.kind == "resample":
            shortcut = "resample"
        taken = position(self.program, op)
        positions = step.positions if taken is None else (*step.positions, taken)
        return ShortcutStep(op.inputs[0], step.weights + (op.kind == "weight"), shortcut, step.gates, positions)


def shortcut_ops(program: Program, operand: int, fork: int) -> tuple[Op, ...]:
    """The ops on the shortcut from a fork to a merge's operand, in reverse order, without the fork.

    Raises:
        ValueError: no shortcut leads from the fork to the operand.
    """
    ops = []
    for step in ShortcutTraces(program).trace(operand):
        if step.value == fork:
            return tuple(ops)
        ops.append(program.ops[step.value])
    raise ValueError(f"no shortcut leads from {program.ops[fork].name} to {program.ops[operand].name}")


def _gate_of(program: Program, op: Op) -> int | None:
    if op.kind != "product" or not op_info(op.target).multiplication or len(set(op.inputs)) != 2:
        return None
    for likelihood in ("usual", "possible"):
        gates = [operand for operand in op.inputs if op_info(_bounding_activation(program, operand)).gate == likelihood]
        if gates:
            # A product of a signal with a function of itself is an activation: x · sigmoid(x).
            return gates[0] if len(gates) == 1 and are_two_signals(program, *op.inputs) else None
    return None


def _bounding_activation(program: Program, index: int) -> str:
    """The activation that makes a value, before operators that only move, scale or shift it, such as 1 − g.

    A reciprocal counts as its operand: 1 / (1 + exp(−x)) is a sigmoid.
    """
    op = program.ops[index]
    while len(op.inputs) == 1 and (op.kind in ("view", "resample", "expand") or _is_reciprocal(op)):
        op = program.ops[op.inputs[0]]
    return op.target


def _is_reciprocal(op: Op) -> bool:
    return op.target == "reciprocal" or op_info(op.target).division


@dataclass(frozen=True, slots=True)
class ChainStep:
    """A value on a chain of ops with one data operand each.

    Attributes:
        value: index of the op.
        weights: weight layers between this value and the operand, 0 or 1.
        crossed: indices of the additional ops between this value and the operand, in reverse order. Ops before the
            weight layer belong to that layer, as in pre-activation, and are left out.
    """

    value: int
    weights: int
    crossed: tuple[int, ...]


def trace_chain(program: Program, operand: int, additional: tuple[Kind, ...] = ()) -> Iterator[ChainStep]:
    """Traces back from a merge's operand, itself first, over transparent ops, one weight layer and additional kinds."""
    step = ChainStep(operand, 0, ())
    while True:
        yield step
        op = program.ops[step.value]
        is_light = op.kind in TRANSPARENT or (op.kind == "weight" and not step.weights)
        if len(op.inputs) != 1 or not (is_light or op.kind in additional):
            return
        crossed = step.crossed if is_light or step.weights else (*step.crossed, op.index)
        step = ChainStep(op.inputs[0], step.weights + (op.kind == "weight"), crossed)
