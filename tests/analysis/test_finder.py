import copy
import dataclasses
import linecache
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import skiplab
from cases import captured
from networks import Block, Net, UNet, heavy, linear, summed, tanh_gelu
from oracles import finder, graphs
from skiplab import Skip, Skips
from skiplab.analysis.merges import merge_at
from skiplab.errors import SelectionError, StaleSkip
from skiplab.graph.program import Program


def as_found(program: Program, skip: Skip) -> finder.Found:
    index = {op.name: op.index for op in program.ops}
    return finder.Found(
        skip.combine,
        skip.shortcut,
        index[skip.fork],
        index[skip.merge],
        index[skip.operand],
        skip.shortcut_weight_layers,
        frozenset(index[name] for name in skip.branch),
        skip.weight_layers,
    )


@settings(max_examples=200, deadline=None)
@given(graphs.plans())
def test_finds_what_the_definition_says(plan: graphs.Plan) -> None:
    program = graphs.program(plan)
    found, foldable = finder.skips(program)
    skips = skiplab.find(program)
    assert sorted(as_found(program, skip) for skip in skips) == sorted(found)
    assert {program.by_name[each.op].index for each in skips.non_skips if each.reason == "foldable"} == foldable


@settings(max_examples=200, deadline=None)
@given(graphs.plans())
def test_wherever_ways_meet_there_is_a_skip_or_a_reason(plan: graphs.Plan) -> None:
    program = graphs.program(plan)
    skips = skiplab.find(program)
    joined = {program.by_name[skip.merge].index for skip in skips}
    apart = {program.by_name[each.op].index for each in skips.non_skips if each.reason != "gate"}
    assert not joined & apart
    assert finder.ways_meet(program) <= joined | apart


@settings(max_examples=200, deadline=None)
@given(graphs.plans())
def test_gates_are_products_of_two_signals(plan: graphs.Plan) -> None:
    program = graphs.program(plan)
    found = {program.by_name[each.op].index for each in skiplab.find(program).non_skips if each.reason == "gate"}
    assert found == finder.gates(program)


@settings(max_examples=200, deadline=None)
@given(graphs.plans(most=16))
def test_parent_is_the_innermost_skip_around(plan: graphs.Plan) -> None:
    program = graphs.program(plan)
    skips = {skip.id: as_found(program, skip) for skip in skiplab.find(program)}
    for skip in skiplab.find(program):
        outer = finder.around(program, skips[skip.id], set(skips.values()))
        assert (skips[skip.parent] in outer) if skip.parent else not outer


@pytest.mark.parametrize(
    "name", ["masked", "unet", "dense_block", "res2net", "in_place", "parallel", "fusion", "twice"]
)
def test_finds_in_networks_what_the_definition_says(name: str) -> None:
    case = captured(name)
    found, _ = finder.skips(case.program)
    assert sorted(as_found(case.program, skip) for skip in case.skips) == sorted(found)


# Blocks (N, 8) -> (N, 8) with the skips planted in them, and decoys.
PLANTED: dict[str, tuple[Any, list[str]]] = {
    "residual": (lambda net, x: x + net.f(x), ["add/identity"]),
    "post_activation": (lambda net, x: F.relu(net.f(x) + x), ["add/identity"]),
    "pre_norm": (lambda net, x: x + net.f(net.n(x)), ["add/identity"]),
    "in_place": (lambda net, x: net.f(x).add_(x).relu_(), ["add/identity"]),
    "difference": (lambda net, x: x - net.f(x), ["add/identity"]),
    "reversed": (lambda net, x: net.f(x) + x.flip(-1), ["add/identity"]),
    "viewed": (lambda net, x: (x.view(-1, 2, 4) + net.f(x).view(-1, 2, 4)).flatten(1), ["add/identity"]),
    "dropped": (lambda net, x: x + F.dropout(net.f(x), 0.1), ["add/identity"]),
    "scaled": (lambda net, x: 0.5 * x + net.f(x), ["add/resample"]),
    "padded": (lambda net, x: F.pad(x[:, :4], (0, 4)) + net.f(x), ["add/resample"]),
    "projected": (lambda net, x: net.p(x) + net.f(x), ["add/projection"]),
    "parallel": (lambda net, x: x + net.f(x) + net.g(x), ["add/identity"]),
    "joined": (lambda net, x: net.q(torch.cat((x, net.f(x)), -1)), ["concat/identity"]),
    "split": (
        lambda net, x: torch.cat((x.chunk(2, -1)[0], F.relu(net.s(x.chunk(2, -1)[1]))), -1),
        ["concat/resample"],
    ),
    "nested": (lambda net, x: x + net.p((h := F.relu(net.h(x))) + net.f(h)), ["add/identity", "add/identity"]),
    "gated_branch": (lambda net, x: x + net.f(x) * torch.sigmoid(net.p(x)), ["add/identity"]),
    "plain": (lambda net, x: net.f(x), []),
    "activated": (lambda net, x: F.relu(net.p(x)), []),
    "gate": (lambda net, x: x * torch.sigmoid(net.f(x)), []),
    "swiglu": (lambda net, x: net.p(x) * F.silu(net.h(x)), []),
    "tanh_gelu": (lambda net, x: tanh_gelu(net.p(x)), []),
    "weightless": (lambda net, x: x + torch.tanh(x), []),
    "activated_shortcut": (lambda net, x: torch.tanh(x) + net.f(x), []),
    "equal_weights": (lambda net, x: net.p(x) + torch.tanh(net.h(x)), []),
    "two_weights": (lambda net, x: net.h(net.p(x)) + net.f(torch.tanh(net.g(x))), []),
    "fusion": (lambda net, x: net.q(torch.cat((F.relu(net.p(x)), F.relu(net.f(x))), -1)), []),
    "foldable": (lambda net, x: x + net.p(x), []),
    "broadcast": (lambda net, x: x.mean(-1, keepdim=True) + net.f(x), []),
    "bias": (lambda net, x: net.f(x) + net.p.bias, []),
    "softmax_gate": (lambda net, x: net.f(x) * F.softmax(net.p(x), -1), []),
    "attention": (lambda net, x: F.softmax(net.p(x) @ net.h(x).T + 1.0, -1) @ x, []),
}


class Stack(nn.Module):
    def __init__(self, names: list[str]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            Net(
                PLANTED[name][0],
                f=heavy(),
                g=heavy(),
                p=linear(),
                h=linear(),
                q=linear(16, 8),
                s=linear(4, 4),
                n=nn.LayerNorm(8),
            )
            for name in names
        )

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


@settings(max_examples=80, deadline=None)
@given(st.lists(st.sampled_from(sorted(PLANTED)), min_size=1, max_size=5), st.booleans())
def test_finds_all_planted_skips_and_no_decoys(names: list[str], train: bool) -> None:
    program = skiplab.capture(Stack(names), (torch.randn(3, 8),), train=train)
    found = [(skip.path, f"{skip.combine}/{skip.shortcut}") for skip in skiplab.find(program)]
    assert found == [(f"blocks.{i}", kind) for i, name in enumerate(names) for kind in PLANTED[name][1]]


def test_a_skip_says_where_it_is_and_what_it_goes_around() -> None:
    first = captured("resnet18").skips[0]
    assert (first.id, first.path) == ("layer1.0", "layer1.0")
    assert (first.combine, first.shortcut) == ("add", "identity")
    assert (first.weight_layers, first.shortcut_weight_layers, first.activation_after) == (2, 0, "relu")
    assert first.source is not None
    assert "torchvision/models/resnet.py" in first.source.replace("\\", "/")
    downsampled = captured("resnet18").skips.at("layer2.0").expect(1)[0]
    assert (downsampled.shortcut, downsampled.weight_layers, downsampled.shortcut_weight_layers) == ("projection", 2, 1)


def test_pre_activation_has_no_activation_after_the_merge() -> None:
    assert {skip.activation_after for skip in captured("resnet110_pre").skips} == {None}
    assert {skip.activation_after for skip in captured("resnet110").skips} == {"relu"}
    assert {skip.activation_after for skip in captured("in_place").skips} == {"relu"}


def test_in_place_twin_has_the_same_skips() -> None:
    keep = ["id", "path", "combine", "shortcut", "weight_layers", "activation_after", "branch"]
    one, other = (captured(name).skips.table()[keep[:-1]] for name in ("in_place", "out_of_place"))
    assert one.equals(other)


def test_parallel_branches_are_one_skip() -> None:
    skip = captured("parallel").skips.expect(1)[0]
    assert len(skip.branch) == 2


def test_nested_skips_know_their_parent() -> None:
    inner, outer = captured("unet").skips.expect(2)
    assert (inner.parent, outer.parent) == (outer.id, None)
    around = {skip.id: skip.parent for skip in captured("res2net").skips}
    assert sorted(parent is None for parent in around.values()) == [False, False, False, True]


def test_the_parent_is_the_next_one_out() -> None:
    def function(net: Any, x: Tensor) -> Tensor:
        a = torch.tanh(net.p(x))
        b = torch.tanh(net.h(a))
        middle = a + net.q(b + net.f(b))
        return x + net.g(middle)

    net = Net(function, f=heavy(), g=heavy(), p=linear(), h=linear(), q=linear())
    skips = skiplab.find(skiplab.capture(net, (torch.randn(3, 8),)))
    assert [(skip.id, skip.parent) for skip in skips] == [
        ("forward#1", "forward#2"),
        ("forward#2", "forward#3"),
        ("forward#3", None),
    ]


def test_a_residual_that_ends_a_branch_keeps_its_place() -> None:
    inner = Net(lambda net, x: (y := torch.relu(net.p(x))) + net.f(y), p=linear(), f=heavy())
    outer = Net(lambda net, x: x + net.inner(x), inner=inner)
    skips = skiplab.find(skiplab.capture(outer, (torch.randn(3, 8),)))
    assert len(skips.expect(2)) == 2
    (nested,) = skips.at("inner").expect(1)
    (around,) = (skip for skip in skips if skip.path == "")
    assert nested.merge == around.merge  # a chain of sums is one
    assert (nested.parent, around.parent) == (around.id, None)


STEPS = {
    "select": lambda x: [x[:, t] for t in range(x.shape[1])],
    "slice": lambda x: [x[:, t : t + 1].squeeze(1) for t in range(x.shape[1])],
    "unbind": lambda x: x.unbind(1),
    "split": lambda x: [part.squeeze(1) for part in x.split(1, 1)],
    "chunk": lambda x: [part.squeeze(1) for part in x.chunk(x.shape[1], dim=1)],
    "narrow": lambda x: [x.narrow(1, t, 1).squeeze(1) for t in range(x.shape[1])],
}


@pytest.mark.parametrize("form", STEPS)
def test_steps_of_a_sequence_are_values_of_their_own(form: str) -> None:
    def function(net: Any, x: Tensor) -> Tensor:
        h = torch.zeros(x.shape[0], 8)
        for step in STEPS[form](x):
            h = torch.tanh(step + torch.tanh(net.p(h)))
        return h

    program = skiplab.capture(Net(function, p=linear()), (torch.randn(2, 4, 8),))
    assert list(skiplab.find(program)) == []


ACTIVATIONS = {
    "silu": lambda x: x * torch.sigmoid(x),
    "mish": lambda x: x * torch.tanh(F.softplus(x)),
    "hardswish": lambda x: x * F.relu6(x + 3) / 6,
    "gelu": tanh_gelu,
}


@pytest.mark.parametrize("form", ACTIVATIONS)
def test_an_activation_written_by_hand_is_no_gate(form: str) -> None:
    net = Net(lambda net, x: torch.cat((ACTIVATIONS[form](net.p(x)), net.f(x)), 1), p=linear(), f=heavy())
    skips = skiplab.find(skiplab.capture(net, (torch.randn(2, 8),)))
    assert list(skips) == []
    assert [each.reason for each in skips.non_skips] == ["fusion"]


def test_a_sum_that_is_returned_is_a_merge_of_its_own() -> None:
    net = Net(lambda net, x: (y := x + net.f(x), y + net.g(x)), f=heavy(), g=heavy())
    program = skiplab.capture(net, (torch.randn(3, 8),))
    (skip,) = skiplab.find(program)
    assert program.by_name[skip.merge].index == program.outputs[0]
    assert len(skip.branch) == 1


def test_unique_ids_in_order_of_the_merges() -> None:
    for name in ("resnet18", "pre_norm", "dense_block", "called_twice", "block"):
        case = captured(name)
        ids = [skip.id for skip in case.skips]
        merges = [case.program.by_name[skip.merge].index for skip in case.skips]
        assert len(set(ids)) == len(ids)
        assert merges == sorted(merges)
    assert [skip.id for skip in captured("block").skips] == ["forward"]
    assert [skip.id for skip in captured("called_twice").skips] == ["b#1", "b#2"]


def test_chain_of_additions_is_one_merge() -> None:
    case = captured("parallel")
    merge = merge_at(case.program, case.skips[0].merge)
    assert len(merge.operands) == 3
    assert [program_op.kind for program_op in (case.program.ops[r] for r in merge.readers)] == ["merge"] * 3
    assert case.program.ops[merge.operands[0]].name == case.skips[0].fork


def test_source_is_the_line_of_the_users_own_code() -> None:
    skip = captured("block").skips[0]
    assert skip.source is not None
    file, line = skip.source.rsplit(":", 1)
    assert file.endswith("networks.py")
    assert "x + self.branch(x)" in linecache.getline(file, int(line))


def test_source_is_the_line_of_the_function_that_adds() -> None:
    net = Net(lambda net, x: summed(x, net.f(x)), f=heavy())
    (skip,) = skiplab.find(skiplab.capture(net, (torch.randn(2, 8),)))
    assert skip.source is not None
    assert "functools.reduce(torch.Tensor.add_" in linecache.getline(*_place(skip.source))


def _place(source: str) -> tuple[str, int]:
    file, line = source.rsplit(":", 1)
    return file, int(line)


def test_a_sequence_that_selects_by_shell_patterns() -> None:
    skips = captured("resnet18").skips
    assert len(skips) == 8
    assert isinstance(skips[1:3], Skips)
    assert [skip.path for skip in skips.at("layer2.*")] == ["layer2.0", "layer2.1"]
    assert skips.at("layer2.*").expect(2)
    assert list(skips.at("nothing")) == []
    assert repr(skips) == "<8 skips: 5 add/identity, 3 add/projection>"
    assert repr(Skips(())) == "<0 skips: none>"


def test_a_pattern_selects_the_non_skips_of_its_place() -> None:
    """One squeeze-excite gate in each block."""
    skips = captured("timm_seresnet").skips
    assert {each.path.rpartition(".se")[0] for each in skips.at("layer2.*").non_skips} == {"layer2.0", "layer2.1"}
    assert len(skips[2:3].non_skips) == 8
    assert skips.at("nothing").non_skips == ()


def test_selections_assert_their_size() -> None:
    skips = captured("resnet18").skips
    with pytest.raises(SelectionError, match=r"expected 3 skips, found 2: layer2\.0, layer2\.1"):
        skips.at("layer2.*").expect(3)
    with pytest.raises(SelectionError, match=r"expected 1 skips, found 8: .*layer3\.0, …"):
        skips.expect(1)
    with pytest.raises(SelectionError, match=r"expected 1 skips, found 0$"):
        skips.at("nothing").expect(1)


def test_table_has_a_column_for_each_attribute() -> None:
    skips = captured("resnet18").skips
    table = skips.table()
    assert list(table) == [field.name for field in dataclasses.fields(Skip)]
    assert table.to_dict("records") == [dataclasses.asdict(skip) for skip in skips]
    assert list(Skips(()).table()) == list(table)
    assert "layer4.1" in skips._repr_html_()


def test_skips_are_records_that_can_be_stored() -> None:
    skip = captured("resnet18").skips[0]
    assert pickle.loads(pickle.dumps(skip)) == skip
    assert copy.deepcopy(skip) == skip
    with pytest.raises(dataclasses.FrozenInstanceError):
        skip.id = "other"  # type: ignore[misc]


def test_skips_of_another_program_are_stale() -> None:
    mine, other = captured("block"), captured("called_twice")
    assert mine.skips.check(mine.program) is mine.skips
    with pytest.raises(StaleSkip, match=r"skip `b#1` was found in another program: call `find`"):
        other.skips.check(mine.program)


def test_skips_serve_the_same_network_with_other_weights() -> None:
    x = torch.randn(2, 8)
    one, two = skiplab.capture(Block(), (x,)), skiplab.capture(Block(), (x,))
    assert skiplab.find(one).check(two)


def test_find_is_repeatable() -> None:
    program = skiplab.capture(UNet(), (torch.randn(2, 4, 8, 8),))
    assert list(skiplab.find(program)) == list(skiplab.find(program))


def test_an_id_with_brackets_is_found_by_itself() -> None:
    outer = Net(lambda net, x: net.blocks["b[0]"](x), blocks=nn.ModuleDict({"b[0]": Block()}))
    skips = skiplab.find(skiplab.capture(outer, (torch.randn(3, 8),)))
    assert [skip.id for skip in skips.at("blocks.b[0]")] == ["blocks.b[0]"]
    assert len(skips.at("blocks.*")) == 1
    assert len(skips.at("blocks.b[1]")) == 0
