import itertools
from math import comb

import pytest
from hypothesis import given, settings

import skiplab
from cases import captured
from oracles import enumeration, graphs
from skiplab.analysis.path_census import COUNTED, NONLINEAR, Range
from skiplab.errors import UsageError

WEIGHTS = ("weight", "recurrent")


@settings(max_examples=200, deadline=None)
@given(graphs.plans(most=8))
def test_counts_what_is_written_out(plan: graphs.Plan) -> None:
    program = graphs.program(plan)
    census, end = skiplab.census(program), len(plan) - 1
    assert census.histogram == enumeration.histogram(program, end, NONLINEAR)
    assert census.weight_histogram == enumeration.histogram(program, end, WEIGHTS)
    for kind in COUNTED:
        counts = enumeration.histogram(program, end, (kind,))
        assert census.nonlinearities.by_kind[kind] == Range(min(counts), max(counts))


@settings(max_examples=200, deadline=None)
@given(graphs.layered_plans())
def test_without_products_every_way_is_a_path(plan: graphs.Plan) -> None:
    program = graphs.program(plan)
    census = skiplab.census(program)
    ways = enumeration.every_way(program, len(plan) - 1)
    numbers = [sum(plan[i][0] == "activation" for i in way) for way in ways]
    assert census.paths == len(ways)
    assert (census.nonlinearities.min, census.nonlinearities.max) == (min(numbers), max(numbers))
    assert census.histogram == {k: numbers.count(k) for k in set(numbers)}
    assert sum(census.weight_histogram.values()) == len(ways)


@settings(max_examples=200, deadline=None)
@given(graphs.plans())
def test_witness_is_a_path_with_the_fewest(plan: graphs.Plan) -> None:
    program = graphs.program(plan)
    census = skiplab.census(program)
    steps = [program.by_name[step.name] for step in census.most_linear.steps]
    assert steps[0].kind == "input"
    assert steps[-1].index == len(plan) - 1
    assert all(a.index in b.inputs for a, b in itertools.pairwise(steps))
    assert sum(op.kind in NONLINEAR for op in steps) == census.most_linear.nonlinearities == census.nonlinearities.min
    assert sum(op.kind in WEIGHTS for op in steps) == census.most_linear.weight_layers
    assert census.weight_layers.min <= census.most_linear.weight_layers <= census.weight_layers.max
    ways = enumeration.every_way(program, len(plan) - 1)
    keys = [tuple(sum(plan[i][0] in kinds for i in way) for kinds in (NONLINEAR, WEIGHTS)) for way in ways]
    assert (census.most_linear.nonlinearities, census.most_linear.weight_layers) == min(keys)


@pytest.mark.parametrize(
    ("name", "fewest", "most"),
    # One norm before each of the 2·12 branches, and one at the end of every path.
    [("vit_b_16", 1, 24 + 25), ("convnext_tiny", 1 + 3 + 1, 18 + 1 + 3 + 1 + 18)],
)
def test_norms_count_when_asked_for(name: str, fewest: int, most: int) -> None:
    program = captured(name).program
    census = skiplab.census(program, count=COUNTED)
    assert (census.nonlinearities.min, census.nonlinearities.max) == (fewest, most)
    assert census.counted == tuple(sorted(COUNTED))
    assert skiplab.census(program).nonlinearities.by_kind == census.nonlinearities.by_kind


def test_kinds_are_reported_apart() -> None:
    by_kind = skiplab.census(captured("resnet50").program).nonlinearities.by_kind
    assert by_kind["max_pool"] == Range(1, 1)
    assert by_kind["activation"] == Range(17, 49)
    assert by_kind["norm"] == by_kind["product"] == by_kind["other"] == Range(0, 0)
    assert skiplab.census(captured("lstm").program).nonlinearities.by_kind["recurrent"] == Range(0, 1)


def test_resnet50_weight_layers() -> None:
    # Stem and head lie on every path; 3 in each of 16 branches, 1 on each of the 4 projections.
    census = skiplab.census(captured("resnet50").program)
    assert census.weight_layers == Range(2 + 4, 2 + 16 * 3)
    assert sum(census.weight_histogram.values()) == sum(census.histogram.values()) == census.paths == 2**16


def test_resnet110_histogram_is_binomial() -> None:
    census = skiplab.census(captured("resnet110").program)
    assert census.histogram == {55 + k: comb(54, k) for k in range(55)}
    weights = skiplab.census(captured("resnet110_pre").program).weight_histogram
    assert weights == {2 + 2 * k: comb(54, k) for k in range(55)}


def test_numbers_larger_than_any_machine_word() -> None:
    blocks = 600
    plan: graphs.Plan = [("input", "input", ())]
    for _ in range(blocks):
        x = len(plan) - 1
        plan.append(("weight", "linear", (x,)))
        plan.append(("activation", "relu", (x + 1,)))
        plan.append(("weight", "linear", (x + 2,)))
        plan.append(("merge", "add", (x, x + 3)))
    census = skiplab.census(graphs.program(plan))
    assert census.paths == 2**blocks
    assert census.histogram[blocks // 2] > 2**590
    assert (census.most_linear.nonlinearities, len(census.most_linear.steps)) == (0, blocks + 1)


def test_each_output_has_its_own_census() -> None:
    program = captured("fusion").program
    first, second = skiplab.census(program, output=0), skiplab.census(program, output=1)
    # stem and high; or stem, low and up. And: stem and low; or stem, high and down.
    assert (first.nonlinearities.min, first.nonlinearities.max) == (2, 3)
    assert (second.nonlinearities.min, second.nonlinearities.max) == (2, 3)
    assert first.most_linear != second.most_linear
    for output in (2, -1):
        with pytest.raises(UsageError, match=r"output=-?\d: Fusion has 2 outputs"):
            skiplab.census(program, output=output)


def test_a_program_whose_output_depends_on_no_input_has_no_paths() -> None:
    census = skiplab.census(graphs.program([("input", "input", ())], outputs=()))
    assert (census.paths, census.histogram, census.most_linear.steps) == (0, {}, ())
