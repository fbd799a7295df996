import itertools

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import skiplab
from oracles import finder, graphs
from skiplab.analysis.reachability import MergeReachability, between, ops_on_every_path
from skiplab.models import resnet


@settings(max_examples=100, deadline=None)
@given(graphs.plans(), st.data())
def test_summaries_of_paths_are_those_of_all_paths_written_out(plan: graphs.Plan, data: st.DataObject) -> None:
    program = graphs.program(plan)
    indices = st.integers(0, len(program.ops) - 1)
    operands = data.draw(st.lists(indices, min_size=1, max_size=4, unique=True))
    reachability = MergeReachability(program, operands, 0)
    for op, excluded in itertools.product(range(len(program.ops)), range(len(operands))):
        weights = [finder.heaviest(program, op, operand) for operand in operands]
        others = weights[:excluded] + weights[excluded + 1 :]
        assert reachability.most_weights(op) == max(weights)
        assert reachability.most_weights(op, excluded) == max(others, default=-1)
        assert reachability.reaches_other_operand(op, excluded) == (max(others, default=-1) >= 0)
        if max(weights) >= 0:
            beyond = [i for i, most in enumerate(weights) if most > 0 and i != excluded]
            assert list(reachability.operands_beyond(op, 0, excluded)) == beyond


@settings(max_examples=100, deadline=None)
@given(graphs.plans(), st.data())
def test_ops_between_are_those_of_all_paths_written_out(plan: graphs.Plan, data: st.DataObject) -> None:
    program = graphs.program(plan)
    indices = st.integers(0, len(program.ops) - 1)
    fork, ends = data.draw(indices), data.draw(st.lists(indices, max_size=3))
    without = data.draw(st.sets(indices.filter(lambda index: index != fork), max_size=2))
    paths = [path for end in ends for path in finder.ways(program, fork, end) if without.isdisjoint(path)]
    assert between(program, fork, ends, without) == {index for path in paths for index in path} - {fork}


def test_an_op_is_on_every_path_exactly_if_as_many_paths_cross_it_as_there_are() -> None:
    for model in (resnet(20, width=4), resnet(20, width=4, placement="pre", skip="B")):
        program = skiplab.capture(model, (torch.randn(2, 3, 16, 16),))
        skips = skiplab.find(program)
        first, last = program.by_name[skips[0].fork].index, program.by_name[skips[-1].merge].index
        here, there = [0] * len(program.ops), [0] * len(program.ops)
        here[first] = there[last] = 1
        for op in program.ops[first + 1 : last + 1]:
            here[op.index] = sum(here[i] for i in op.inputs)
        for op in reversed(program.ops[first : last + 1]):
            for i in op.inputs:
                there[i] += there[op.index]
        counted = [i for i in range(first, last + 1) if here[i] * there[i] == here[last]]
        assert list(ops_on_every_path(program, between(program, first, [last]) | {first})) == counted
        assert counted
