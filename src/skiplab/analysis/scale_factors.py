"""Scale factors on shortcuts and branches: layer-scale, ReZero, drop-path, plain numbers, a minus sign."""

import torch
from torch.fx import Node

from skiplab.graph.ops import Op, draws_random_numbers, is_scale, op_info
from skiplab.graph.program import Program


def factors(program: Program, ops: tuple[Op, ...]) -> tuple[str, ...]:
    """The scale factors among ops with one data operand each: numbers, names of parameters, "random", "constant"."""
    return tuple(_factor(program, op) for op in ops if op.kind == "resample" and _scales(op))


def _scales(op: Op) -> bool:
    return is_scale(op.target) or op_info(op.target).negation


def _factor(program: Program, op: Op) -> str:
    if op_info(op.target).negation:
        return "-1"
    if op.weights:
        return ", ".join(op.weights)
    node = program.nodes[op.name]
    data = {program.ops[i].name for i in op.inputs}
    factor = next((each for each in node.args if not (isinstance(each, Node) and each.name in data)), 1)
    if isinstance(factor, (int, float)):
        return f"{1 / factor if op_info(op.target).division and factor else factor:g}"
    return "random" if isinstance(factor, Node) and _is_random(factor) else "constant"


def _is_random(node: Node) -> bool:
    """Whether a value is computed from random numbers, as the mask of drop-path is."""
    seen, rest = set(), [node]
    while rest:
        node = rest.pop()
        if node in seen or isinstance(node.meta.get("val"), (int, torch.SymInt)):
            continue
        if draws_random_numbers(node):
            return True
        seen.add(node)
        rest += node.all_input_nodes
    return False
