"""What several rules ask of the data flow: what a merge's operand is made of, and how an op is called."""

from collections.abc import Iterator
from dataclasses import dataclass

from skiplab.analysis.merges import Merge
from skiplab.graph.ops import TRANSPARENT, Kind
from skiplab.graph.program import Op, Program


@dataclass(frozen=True, slots=True)
class Step:
    """A value on a walk back from an operand.

    Attributes:
        value: index of the op.
        weights: weight layers crossed so far, 0 or 1.
        crossed: indices of the ops crossed that no shortcut may have on it, the last executed first. What stands
            before a weight layer belongs to it, as in pre-activation, and is not among them.
    """

    value: int
    weights: int
    crossed: tuple[int, ...]


def walk(program: Program, operand: int, extra: tuple[Kind, ...] = ()) -> Iterator[Step]:
    """Back from a merge's operand, itself first, over transparent ops, one weight layer, and ops of `extra` kinds."""
    step = Step(operand, 0, ())
    while True:
        yield step
        op = program.ops[step.value]
        light = op.kind in TRANSPARENT or (op.kind == "weight" and not step.weights)
        if len(op.inputs) != 1 or not (light or op.kind in extra):
            return
        crossed = step.crossed if light or step.weights else (*step.crossed, op.index)
        step = Step(op.inputs[0], step.weights + (op.kind == "weight"), crossed)


def others(merge: Merge, position: int) -> list[int]:
    """The operands of a merge but the one at a position, and but that same value again."""
    return [operand for operand in merge.operands if operand != merge.operands[position]]


def name_of(op: Op) -> str:
    """How a person refers to an op: "`layer1.0.relu` (relu)", "`layer1.0` (add)"."""
    return f"`{op.module}` ({op.target})" if op.module else op.target
