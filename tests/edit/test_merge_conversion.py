from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import skiplab
from cases import by_kind, captured
from edits import Untouched, assert_sound, captured_with_statistics, deviation
from networks import Block, DenseBlock, Highway, Net, Transformer, UNet, around, conv, heavy, linear
from skiplab.analysis.skips import Skips
from skiplab.edit import add_to_concat, concat_to_add
from skiplab.errors import UsageError
from skiplab.models import resnet

IMAGE = (2, 4, 8, 8)


def volumes() -> nn.Module:
    branch = nn.Sequential(nn.Conv3d(2, 3, 3, padding=1), nn.ReLU(), nn.Conv3d(3, 2, 1))
    return Net(lambda net, x: net.head(torch.cat((net.f(x), x), 1)), f=branch, head=nn.Conv3d(4, 1, 1))


def steps() -> nn.Module:
    branch = nn.Sequential(nn.Conv1d(4, 4, 3, padding=1), nn.ReLU(), nn.Conv1d(4, 5, 1))
    return Net(lambda net, x: torch.cat((x, net.f(x)), -2), f=branch)


CONCATENATED = {
    "unet": (UNet, IMAGE, {"add/projection": 2}),
    # a layer's operand is a skip's shortcut for every layer behind it: 1 + 2 + 3 and, at the end, 3
    "dense_block": (lambda: DenseBlock(3), IMAGE, {"add/projection": 3 * 4 // 2}),
    "features": (lambda: around(lambda x, f: F.relu(torch.cat((x, f), -1))), (3, 8), {"add/projection": 1}),
    "channels_last": (
        lambda: Net(lambda net, x: net.g(torch.cat((x, net.f(x)), 2)), f=heavy(), g=linear(16)),
        (2, 5, 8),
        {"add/projection": 1},
    ),
    "steps": (steps, (2, 4, 6), {"add/projection": 1}),
    "volumes": (volumes, (2, 2, 4, 4, 4), {"add/projection": 1}),
}


@pytest.mark.parametrize("dtype", [torch.double, torch.float32])
@pytest.mark.parametrize("name", CONCATENATED)
def test_concatenations_become_sums(name: str, dtype: torch.dtype) -> None:
    build, shape, kinds = CONCATENATED[name]
    model, program = captured_with_statistics(build(), torch.randn(shape), dtype=dtype)
    skips = skiplab.find(program)
    with Untouched(program):
        added = concat_to_add(program, skips)
    x = torch.randn(shape, dtype=dtype)
    assert by_kind(skiplab.find(added)) == kinds
    assert not any(op.target == "cat" and len(op.inputs) > 1 for op in added.ops)
    assert deviation(added.module()(x), model(x)) < 1e-6
    assert {tensor.dtype for name, tensor in added.tensors.items() if name in added.parameters} == {dtype}
    assert_sound(added, x)


SUMMED = {
    "block": (Block, (3, 8), {"concat/identity": 1}),
    "resnet": (lambda: resnet(8, width=4, skip="B"), (2, 3, 16, 16), {"concat/identity": 1, "concat/projection": 2}),
    "transformer": (lambda: Transformer("pre"), (2, 5, 8), {"concat/identity": 2}),
    "highway": (Highway, (3, 8), {"concat/gated": 1}),
    "twice": (lambda: around(lambda x, f: x + x + f), (3, 8), {"concat/identity": 1}),
    "three": (lambda: Net(lambda n, x: x + n.f(x) + n.g(x), f=heavy(), g=heavy()), (3, 8), {"concat/identity": 1}),
    "images": (lambda: Net(lambda n, x: x - n.f(x), f=conv()), IMAGE, {"concat/identity": 1}),
}


@pytest.mark.parametrize("dtype", [torch.double, torch.float32])
@pytest.mark.parametrize("name", SUMMED)
def test_sums_become_concatenations(name: str, dtype: torch.dtype) -> None:
    build, shape, kinds = SUMMED[name]
    model, program = captured_with_statistics(build(), torch.randn(shape), dtype=dtype)
    skips = skiplab.find(program)
    with Untouched(program):
        joined = add_to_concat(program, skips)
    x = torch.randn(shape, dtype=dtype)
    assert by_kind(skiplab.find(joined)) == kinds
    assert deviation(joined.module()(x), model(x)) < (1e-12 if dtype == torch.double else 1e-5)
    assert_sound(joined, x)


def test_the_projections() -> None:
    """[I 0]ᵀ and [0 I]ᵀ of both operands; [I I] of the sum."""
    model = Net(lambda net, x: F.relu(torch.cat((net.f(x), x), 1)), f=conv(4, 6))
    program = skiplab.capture(model.eval(), (torch.randn(IMAGE),))
    state = concat_to_add(program, skiplab.find(program)).module().state_dict()
    first, second = state["projection_weight"], state["projection_weight_2"]
    assert first.shape == (10, 6, 1, 1)
    assert second.shape == (10, 4, 1, 1)
    assert torch.equal(torch.cat((first, second), 1)[..., 0, 0], torch.eye(10))
    program = skiplab.capture(Net(lambda net, x: net.b(x), b=Block()), (torch.randn(3, 8),))
    joined = add_to_concat(program, skiplab.find(program))
    assert torch.equal(joined.module().state_dict()["b.projection_weight"], torch.cat((torch.eye(8), torch.eye(8)), 1))
    assert joined.added == {"b.projection_weight"}
    joined.module().load_state_dict(program.module().state_dict())


def test_with_other_weights_it_is_the_sum_of_the_projected_operands() -> None:
    model, program = captured_with_statistics(
        Net(lambda net, x: torch.cat((net.f(x), x), 1), f=conv(4, 6)), torch.randn(IMAGE)
    )
    added = concat_to_add(program, skiplab.find(program)).module()
    for parameter in (added.projection_weight, added.projection_weight_2):
        nn.init.normal_(parameter)  # type: ignore[arg-type]
    x = torch.randn(IMAGE, dtype=torch.double)
    values: list[Any] = [(model.get_submodule("f")(x), added.projection_weight), (x, added.projection_weight_2)]
    wanted = sum(torch.einsum("nchw,oc->nohw", value, weight[..., 0, 0]) for value, weight in values)
    assert deviation(added(x), wanted) < 1e-12


def test_of_several_merges_one() -> None:
    model, program = captured_with_statistics(UNet(), torch.randn(IMAGE))
    added = concat_to_add(program, skiplab.find(program)[:1])
    assert by_kind(skiplab.find(added)) == {"add/projection": 1, "concat/identity": 1}
    x = torch.randn(IMAGE, dtype=torch.double)
    assert deviation(added.module()(x), model(x)) < 1e-12


def test_there_and_back() -> None:
    model, program = captured_with_statistics(UNet(), torch.randn(IMAGE))
    added = concat_to_add(program, skiplab.find(program))
    back = add_to_concat(added, skiplab.find(added))
    assert by_kind(skiplab.find(back)) == {"concat/projection": 2}
    x = torch.randn(IMAGE, dtype=torch.double)
    assert deviation(back.module()(x), model(x)) < 1e-12
    assert_sound(back, x)


@pytest.mark.parametrize(
    ("edit", "build", "shape", "message"),
    [
        (concat_to_add, Block, (3, 8), "`forward` ends in `add`, which is not `torch.cat`: leave it out"),
        (
            concat_to_add,
            lambda: Net(lambda net, x: torch.cat((x, net.f(x)), 2), f=conv()),
            IMAGE,
            r"`forward` concatenates \(None, 4, 16, 8\) along dimension 2, and the channels are dimension 1",
        ),
        (add_to_concat, UNet, IMAGE, "`forward#1` ends in `cat`, which is no sum: leave it out"),
        (
            add_to_concat,
            lambda: Net(lambda net, x: x + net.f(x) + net.g(x).mean(1, keepdim=True), f=heavy(), g=heavy()),
            (3, 8),
            r"`forward` adds values of shapes \(None, 8\), \(None, 8\), \(None, 1\), and only values of one shape",
        ),
    ],
)
def test_merges_of_another_form(
    edit: Callable[..., Any], build: Callable[[], nn.Module], shape: tuple[int, ...], message: str
) -> None:
    program = skiplab.capture(build().eval(), (torch.randn(shape),))
    with pytest.raises(UsageError, match=message):
        edit(program, skiplab.find(program))


@pytest.mark.parametrize("edit", [concat_to_add, add_to_concat])
def test_skips_of_no_use(edit: Callable[..., Any]) -> None:
    lstm, block = captured("lstm"), captured("block")
    with pytest.raises(UsageError, match="is a cell state inside the operator"):
        edit(lstm.program, lstm.skips)
    with pytest.raises(UsageError, match="was found in another program"):
        edit(lstm.program, block.skips)
    assert edit(block.program, Skips([])).fingerprint == block.program.fingerprint
