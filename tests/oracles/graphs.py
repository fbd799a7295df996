"""Programs made of ops alone, without a network: for what reads the data flow and nothing else."""

from typing import Any

import torch
from hypothesis import strategies as st
from torch import nn
from torch.fx import Graph, GraphModule
from torch.utils import _pytree as pytree

from skiplab.graph.ops import Kind
from skiplab.graph.program import Op, Program

FULL, HALF, NARROW = (None, 4), (None, 2), (None, 1)
Plan = list[tuple[Kind, str, tuple[int, ...]]]  # kind, target, operands; the first is the input

UNARY: tuple[tuple[Kind, str], ...] = (
    ("weight", "linear"),
    ("weight", "linear"),  # twice, as they decide most
    ("activation", "relu"),
    ("activation", "softmax"),
    ("activation", "sigmoid"),
    ("view", "permute"),
    ("resample", "pad"),
    ("resample", "slice"),
    ("resample", "mean"),
    ("batch_norm", "batch_norm"),
    ("norm", "layer_norm"),
    ("recurrent", "rnn_tanh"),
    ("expand", "expand"),
)
LIGHT = tuple(choice for choice in UNARY if choice[0] in ("weight", "view", "resample", "batch_norm"))
JOINING: tuple[tuple[Kind, str], ...] = (("merge", "add"), ("merge", "cat"), ("product", "mul"))


def shape_of(target: str, given: set[Any]) -> tuple[int | None, ...]:
    """What an op makes of operands of these shapes; a slice of less than a full value takes all of it."""
    if target == "mean":
        return NARROW
    if len(given) != 1 or target in ("cat", "expand", "pad"):
        return FULL
    shape = next(iter(given))
    return HALF if target == "slice" and shape == FULL else shape


def program(plan: Plan, outputs: tuple[int, ...] = (-1,)) -> Program:
    """The program of a plan, whose last op is its output."""
    ops: list[Op] = []
    for index, (kind, target, operands) in enumerate(plan):
        shape = shape_of(target, {ops[i].shape for i in operands})
        ops.append(Op(index, f"op{index}", target, kind, operands, "", None, shape))
    spec = pytree.tree_structure(())
    return Program(
        graph=GraphModule(nn.Module(), Graph()),
        ops=tuple(ops),
        outputs=tuple(range(len(ops))[i] for i in outputs),
        tensors={},
        parameters={},
        buffers={},
        transient=frozenset(),
        arguments=(),
        inputs=(),
        example=((torch.zeros(1),), {}),
        specs=(spec, spec),
        name="Plan",
        training=False,
        dynamic_batch=True,
        difference=0.0,
    )


@st.composite
def plans(draw: st.DrawFn, most: int = 12) -> Plan:
    """Random data flows: chains, joints of recent values, blocks with a light and a heavy way, gated or not."""
    plan: Plan = [("input", "input", ())]

    def chain(start: int, choices: tuple[tuple[Kind, str], ...], longest: int) -> int:
        for kind, target in draw(st.lists(st.sampled_from(choices), max_size=longest)):
            plan.append((kind, target, (start,)))
            start = len(plan) - 1
        return start

    while len(plan) <= most:
        last = len(plan) - 1
        near = st.integers(0, last).map(lambda back, last=last: last - back)
        form = draw(st.sampled_from(["end", "chain", "joint", "block", "block", "block", "gated"]))
        if form == "chain":
            chain(draw(near), UNARY, 3)
        elif form == "joint":
            kind, target = draw(st.sampled_from(JOINING))
            most_operands = 2 if kind == "product" else 3
            plan.append((kind, target, tuple(draw(st.lists(near, min_size=2, max_size=most_operands)))))
        elif form == "block":
            fork = draw(near)
            ways = [chain(fork, LIGHT, 3), *(chain(fork, UNARY, 4) for _ in range(draw(st.integers(1, 2))))]
            plan.append(("merge", draw(st.sampled_from(["add", "add", "cat"])), tuple(draw(st.permutations(ways)))))
        elif form == "gated":
            fork = draw(near)
            plan.append(("activation", "sigmoid", (chain(draw(near), UNARY, 2),)))
            by = len(plan) - 1
            ways = [chain(fork, LIGHT, 2), chain(fork, UNARY, 3)]
            for place in range(draw(st.integers(1, 2))):
                plan.append(("product", "mul", tuple(draw(st.permutations((by, ways[place]))))))
                ways[place] = len(plan) - 1
            plan.append(("merge", draw(st.sampled_from(["add", "add", "cat"])), tuple(draw(st.permutations(ways)))))
        else:
            break
    return plan


@st.composite
def layered_plans(draw: st.DrawFn, most: int = 7) -> Plan:
    """Data flows without products, in which a weight layer stands before each operand of an addition."""
    plan: Plan = [("input", "input", ())]
    stages = [0]
    for _ in range(draw(st.integers(1, most))):
        operands = draw(st.lists(st.sampled_from(stages), min_size=1, max_size=3))
        ends = []
        for operand in operands:
            plan.append(("weight", "linear", (operand,)))
            if draw(st.booleans()):
                plan.append(("activation", "relu", (len(plan) - 1,)))
            ends.append(len(plan) - 1)
        if len(ends) > 1:
            plan.append(("merge", draw(st.sampled_from(["add", "cat"])), tuple(ends)))
        stages.append(len(plan) - 1)
    return plan
