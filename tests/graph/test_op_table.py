"""The table of operators against torch's own schemas and tags, and against what the operators compute."""

from typing import Any

import pytest
import torch
from torch import Tag, Tensor, nn

from skiplab.graph.op_table import TABLE, OpInfo
from skiplab.graph.ops import is_active_dropout, op_info, operator_name
from skiplab.graph.torch_compat import storage_id

aten = torch.ops.aten

# Functions that torch.export calls and that are no ATen operators.
PYTHON = {"sym_size", "sym_numel", "sym_stride", "sym_storage_offset"}
# What an elementwise operator needs besides its data, in the usual form.
ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "clamp": (0.0,),
    "clip": (0.0,),
    "clamp_min": (0.0,),
    "clamp_max": (1.0,),
    "threshold": (0.0, 0.0),
    "prelu": (torch.tensor([0.25]),),
    "_prelu_kernel": (torch.tensor([0.25]),),
}


def overloads(name: str) -> list[Any]:
    """The overloads of an operator and of its in-place form."""
    packets = [getattr(aten, each, None) for each in (name, f"{name}_")]
    found = [getattr(packet, overload) for packet in packets if packet is not None for overload in packet.overloads()]
    return [overload for overload in found if operator_name(overload) == name]


def tagged(name: str, tag: Tag) -> bool:
    return any(tag in overload.tags for overload in overloads(name))


def is_composite(name: str) -> bool:
    """Torch gives no tags to operators that it takes apart into others."""
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    return any(has(str(op._schema.name) + _dot(op), "CompositeImplicitAutograd") for op in overloads(name))


def _dot(overload: Any) -> str:
    return f".{overload._schema.overload_name}" if overload._schema.overload_name else ""


def arguments(name: str) -> set[str]:
    return {argument.name for overload in overloads(name) for argument in overload._schema.arguments}


def flagged(flag: str) -> list[str]:
    found = sorted(name for name, info in TABLE.items() if getattr(info, flag) not in (False, None))
    assert found
    return found


def tensor_arguments(overload: Any) -> list[Any]:
    return [argument for argument in overload._schema.arguments if "Tensor" in str(argument.type)]


@pytest.mark.parametrize("name", sorted(TABLE))
def test_every_name_is_that_of_an_operator(name: str) -> None:
    assert name in PYTHON or overloads(name)


def test_every_flag_is_used() -> None:
    """An OpInfo field that no operator sets would be a question with one answer."""
    plain = OpInfo()
    for field in OpInfo.__dataclass_fields__:
        assert any(getattr(info, field) != getattr(plain, field) for info in TABLE.values()), field


def test_random_operators_are_those_that_torch_seeds() -> None:
    """But recurrent layers and attention, which are seeded for the dropout inside, and have its rate as argument."""
    for name in set(TABLE) - PYTHON:
        with_rate = bool({"dropout", "dropout_p"} & arguments(name))
        if tagged(name, Tag.nondeterministic_seeded) and not with_rate:
            assert TABLE[name].random, name
        elif TABLE[name].random:
            assert tagged(name, Tag.nondeterministic_seeded) or is_composite(name) or name == "normal_functional", name


@pytest.mark.parametrize("name", flagged("dropout"))
def test_dropouts_have_a_rate_and_a_mode_as_second_and_third_argument(name: str) -> None:
    (overload,) = (each for each in overloads(name) if each._overloadname == "default" and not each._schema.is_mutable)
    assert [argument.name for argument in overload._schema.arguments[:3]] == ["input", "p", "train"]
    graph = torch.fx.Graph()
    x = graph.placeholder("x")
    calls = {args: graph.call_function(overload, (x, *args)) for args in ((0.5, True), (0.5, False), (0.0, True))}
    assert [args for args, node in calls.items() if is_active_dropout(node)] == [(0.5, True)]


@pytest.mark.parametrize("name", flagged("write_back"))
def test_views_share_memory_with_their_first_operand(name: str) -> None:
    """By the schema; some schemas do not declare it, and then what comes out shows it."""
    undeclared: dict[str, tuple[Any, ...]] = {
        "_unsafe_view": ([3, 2],),
        "type_as": (torch.zeros(1),),
        **dict.fromkeys(("atleast_1d", "atleast_2d", "atleast_3d"), ()),
        **dict.fromkeys(("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"), (0.5, False)),
    }
    firsts = [each._schema.arguments[0] for each in overloads(name) if not each._schema.is_mutable]
    declared = any(argument.alias_info is not None for argument in firsts)
    assert declared != (name in undeclared)
    if not declared:
        x = torch.randn(2, 3)
        assert storage_id(getattr(aten, name)(x, *undeclared[name])) == storage_id(x)


@pytest.mark.parametrize("name", flagged("shape_in_place"))
def test_in_place_forms_that_change_the_shape_are_those_of_torch(name: str) -> None:
    composite = name in ("swapaxes", "swapdims")  # torch has them call `transpose_`
    assert composite or tagged(name, Tag.inplace_view)
    x = torch.arange(3.0)[None]
    before = x.clone()
    changed = getattr(x, f"{name}_")(*{"t": (), "squeeze": ()}.get(name, (0,) if name == "unsqueeze" else (0, 1)))
    assert changed.shape != before.shape
    assert torch.equal(changed.flatten(), before.flatten())


@pytest.mark.parametrize("name", flagged("split"))
def test_splits_give_several_tensors_and_take_a_dimension_where_the_table_says(name: str) -> None:
    calls = [each for each in overloads(name) if "Tensor" in str(each._schema.arguments[0].type) and not _is_out(each)]
    assert calls
    for overload in calls:
        assert [str(result.type) for result in overload._schema.returns] == ["List[Tensor]"]
        place = TABLE[name].split_dim
        if place is not None and len(overload._schema.arguments) > place:
            assert overload._schema.arguments[place].name == "dim"


@pytest.mark.parametrize("name", flagged("even_split"))
def test_parts_of_an_even_split_have_one_size(name: str) -> None:
    x = torch.arange(6)
    parts = getattr(aten, name)(x) if name == "unbind" else getattr(aten, name)(x, 2)
    assert len({part.shape for part in parts}) == 1
    assert torch.equal(torch.cat([part.reshape(-1) for part in parts]), x)


def applied(name: str, x: Tensor) -> Tensor:
    return getattr(aten, name)(x, *ARGUMENTS.get(name, ()))


@pytest.mark.parametrize("name", flagged("elementwise"))
def test_elementwise_operators_commute_with_permutations(name: str) -> None:
    x = torch.linspace(-2, 2, 9)
    order = torch.tensor([4, 2, 0, 7, 8, 1, 3, 6, 5])
    torch.testing.assert_close(applied(name, x)[order], applied(name, x[order]), equal_nan=True)


def test_no_other_activation_is_elementwise_in_torchs_eyes() -> None:
    """Pointwise by torch's tag, of one tensor in each overload, with real values from real values."""
    truths = {"isnan", "isinf"}
    for name, info in TABLE.items():
        one = all(len(tensor_arguments(overload)) == 1 for overload in overloads(name) if not _is_out(overload))
        if info.kind == "activation" and tagged(name, Tag.pointwise) and one and name not in truths:
            assert info.elementwise, name


def _is_out(overload: Any) -> bool:
    return any(argument.is_out for argument in overload._schema.arguments)


@pytest.mark.parametrize("name", flagged("elementwise"))
def test_zero_at_zero(name: str) -> None:
    assert bool(applied(name, torch.zeros(3)).eq(0).all()) == TABLE[name].zero_at_zero


@pytest.mark.parametrize("name", flagged("idempotent"))
def test_idempotent_operators_change_nothing_the_second_time(name: str) -> None:
    once = applied(name, torch.linspace(-9, 9, 40))
    assert torch.equal(applied(name, once), once)


@pytest.mark.parametrize("name", flagged("softmax"))
def test_softmaxes_are_weights_or_their_logarithms(name: str) -> None:
    rest = (1, False) if name.startswith("_") and name != "_safe_softmax" else (1,)
    result = getattr(aten, name)(torch.randn(3, 4), *rest)
    weights = result.exp() if "log" in name else result
    torch.testing.assert_close(weights.sum(1), torch.ones(3))


@pytest.mark.parametrize("name", flagged("gated_cell"))
def test_gated_cells_are_the_recurrent_layers_with_gates(name: str) -> None:
    """Torch stores the gates' weights one below the other: four of them for an LSTM, three for a GRU."""
    module = {"lstm": nn.LSTM, "gru": nn.GRU, "lstm_cell": nn.LSTMCell, "gru_cell": nn.GRUCell}[name](5, 2)
    assert next(module.parameters()).shape == ((4 if "lstm" in name else 3) * 2, 5)
    assert TABLE[name].kind == "recurrent"
    assert (TABLE[name].gated_cell == "one step") == name.endswith("cell")


def shaped() -> list[tuple[str, tuple[Any, ...]]]:
    """Arguments with which each operator of the flag `reshape` runs on a tensor (1, 3, 2)."""
    like = torch.zeros(1, 3, 2)
    own: dict[str, tuple[Any, ...]] = {
        **dict.fromkeys(("view", "_unsafe_view", "reshape", "_reshape_alias"), ([2, 3],)),
        **dict.fromkeys(("view_as", "reshape_as"), (torch.zeros(2, 3),)),
        "_reshape_alias": ([2, 3], [3, 1]),
        "unflatten": (1, [3, 1]),
        "unsqueeze": (1,),
        "to": (torch.float64,),
        "type_as": (like.double(),),
    }
    return [(name, own.get(name, ())) for name in flagged("reshape")]


@pytest.mark.parametrize(("name", "args"), shaped())
def test_reshapes_keep_the_entries_in_order(name: str, args: tuple[Any, ...]) -> None:
    x = torch.randn(1, 3, 2)
    result = getattr(aten, name)(x, *args)
    assert torch.equal(result.flatten().float(), x.flatten())


def test_factors() -> None:
    six, three = torch.tensor(6.0), torch.tensor(3.0)
    assert {float(getattr(aten, name)(six, three)) for name in flagged("multiplication")} == {18.0}
    assert {float(getattr(aten, name)(six, three)) for name in flagged("division")} == {2.0}
    assert {float(getattr(aten, name)(six)) for name in flagged("negation")} == {-6.0}


@pytest.mark.parametrize("name", flagged("first_alone"))
def test_a_second_operand_gives_shape_or_dtype_alone(name: str) -> None:
    x, like = torch.randn(2, 3), torch.randn(2, 3, dtype=torch.double)
    other = aten.to.other if name == "to" else getattr(aten, name)
    assert torch.equal(other(x, like), other(x, torch.full_like(like, torch.nan)))


def test_transposed_convolutions_are_convolutions() -> None:
    assert set(flagged("transposed")) < set(flagged("convolution"))
    for name in flagged("convolution"):
        assert ("output_padding" in arguments(name)) == TABLE[name].transposed


@pytest.mark.parametrize("name", flagged("running_statistics"))
def test_norms_with_running_statistics_have_them_as_arguments(name: str) -> None:
    assert {"running_mean", "running_var"} <= arguments(name)


def test_statistics_of_no_other_operator_are_overlooked() -> None:
    for name in set(TABLE) - PYTHON:
        if "running_mean" in arguments(name):
            assert TABLE[name].running_statistics, name


@pytest.mark.parametrize("name", flagged("overwrites"))
def test_overwritten_values_do_not_matter(name: str) -> None:
    x = torch.randn(3)
    assert torch.equal(getattr(aten, name)(torch.full((3,), torch.nan), x), x)


@pytest.mark.parametrize("name", flagged("embedding"))
def test_embeddings_look_up_integers(name: str) -> None:
    assert {"weight", "indices"} <= arguments(name)


@pytest.mark.parametrize("name", flagged("combine"))
def test_operators_that_combine_take_two_values(name: str) -> None:
    texts = [[str(argument.type) for argument in tensor_arguments(overload)] for overload in overloads(name)]
    assert any(types == ["List[Tensor]"] or len(types) > 1 for types in texts)


def test_an_unknown_operator_is_of_kind_other() -> None:
    assert op_info("an_operator_of_tomorrow") == OpInfo()
    assert op_info("an_operator_of_tomorrow").kind == "other"
