from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import skiplab
from networks import WIDTH, Net, around, conv, heavy, linear
from oracles.edited import SHAPES, assert_same_network, blocks, branch, found
from skiplab.edit import remove_branch, remove_shortcut
from skiplab.errors import StaleSkip, UsageError
from skiplab.graph.interpreter import run
from skiplab.models import SkipConnection, resnet


def trained(model: nn.Module) -> nn.Module:
    """Statistics and scales of norms that are not those of the start."""
    torch.manual_seed(3)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.running_var, module.weight.data, module.bias.data):
                assert tensor is not None
                tensor.uniform_(0.5, 1.5)
    return model


@pytest.mark.parametrize("form", SHAPES)
def test_without_shortcuts_the_branches_are_left(form: str) -> None:
    model = blocks(form)
    program, skips = found(model, SHAPES[form])
    edited = remove_shortcut(program, skips)
    twin = nn.Sequential(*(SkipConnection(branch(form), shortcut=None) for _ in model))
    assert_same_network(edited.module(), twin, torch.randn(SHAPES[form]))
    assert len(skiplab.find(edited)) == 0
    assert edited.removed == frozenset()


@pytest.mark.parametrize("placement", ["post", "pre"])
@pytest.mark.parametrize("skip", ["A", "B", "C"])
def test_a_resnet_without_shortcuts_is_the_plain_one(skip: Any, placement: Any) -> None:
    """All projections go with their norms, down to the counters of batches."""
    model = trained(resnet(20, width=4, skip=skip, placement=placement))
    plain = resnet(20, width=4, skip=None, placement=placement).eval()
    program, skips = found(model, (2, 3, 16, 16))
    edited = remove_shortcut(program, skips.expect(9))
    kept = {name: value for name, value in model.state_dict().items() if "downsample" not in name}
    assert edited.removed == model.state_dict().keys() - kept
    plain.load_state_dict(kept)
    x = torch.randn(3, 3, 16, 16)
    torch.testing.assert_close(edited.module()(x), plain(x))
    assert edited.module().state_dict().keys() == plain.state_dict().keys()
    assert_same_network(edited.module().train(), plain.train(), x)


def test_without_a_branch_its_block_is_gone() -> None:
    model = blocks("vector")
    program, skips = found(model, (3, 4))
    edited = remove_branch(program, skips[1:2])
    assert edited.removed == {f"1.{name}" for name in model[1].state_dict()}
    x = torch.randn(3, 4)
    module = edited.module()
    assert torch.equal(module(x), model[2](model[0](x)))
    assert not [name for name, _ in module.named_modules() if name.startswith("1")]


def test_a_resnet_without_branches_is_its_shortcuts() -> None:
    """Between them is nothing but ReLUs, of which those in a row are one."""
    model = trained(resnet(20, width=4, skip="B"))
    program, skips = found(model, (2, 3, 16, 16))
    edited = remove_branch(program, skips)
    assert edited.removed == {name for name in model.state_dict() if ".conv" in name or ".bn" in name}
    x = torch.randn(2, 3, 16, 16)
    model.eval()
    stem = F.relu(model.get_submodule("bn1")(model.get_submodule("conv1")(x)))
    middle = F.relu(model.get_submodule("layer2.0.downsample")(stem))
    last = F.relu(model.get_submodule("layer3.0.downsample")(middle))
    wanted = model.get_submodule("fc")(last.mean((2, 3)))
    torch.testing.assert_close(edited.module()(x), wanted)
    assert sum(op.target == "relu" for op in edited.ops) == 3


def test_one_shortcut_of_two_sums_in_a_row() -> None:
    """x + x + F(x): both operands that bring the shortcut go."""
    model = around(lambda x, f: x + x + f)
    program, skips = found(model, (3, 8))
    x = torch.randn(3, 8)
    assert torch.equal(run(remove_shortcut(program, skips.expect(1)), x), model.get_submodule("branch")(x))
    assert torch.equal(run(remove_branch(program, skips), x), x + x)


def test_two_branches_go_together() -> None:
    model = Net(lambda net, x: net.f(x) + x + net.g(x), f=heavy(), g=heavy())
    program, skips = found(model, (3, 8))
    edited = remove_branch(program, skips.expect(1))
    x = torch.randn(3, 8)
    assert edited.module()(x) is x
    assert not edited.module().state_dict()


def test_a_difference_keeps_its_sign() -> None:
    model = around(lambda x, f: torch.sub(x, f, alpha=2))
    program, skips = found(model, (3, 8))
    x = torch.randn(3, 8)
    assert torch.equal(run(remove_shortcut(program, skips), x), -2 * model.get_submodule("branch")(x))


def test_zeros_take_a_concatenated_value_s_place() -> None:
    model = Net(lambda net, x: net.out(torch.cat((x, net.branch(x)), 1)), branch=heavy(), out=linear(16, 4))
    program, skips = found(model, (3, 8))
    for batch in (1, 3, 5):
        x = torch.randn(batch, 8)
        f = model.get_submodule("branch")(x)
        for edit, parts in ((remove_shortcut, (0 * x, f)), (remove_branch, (x, 0 * f))):
            edited = edit(program, skips)
            assert torch.equal(edited.module()(x), model.get_submodule("out")(torch.cat(parts, 1)))
            assert bool(edited.removed) == (edit is remove_branch)


def test_a_broadcast_operand_keeps_the_sum_s_shape() -> None:
    """Of F(x) + a mean of x, the mean alone would have too few columns."""
    model = around(lambda x, f: x.mean(-1, keepdim=True) + x + f)
    program, skips = found(model, (3, 8))
    edited = remove_shortcut(program, skips.expect(1))
    edited = remove_branch(program, skips)
    x = torch.randn(2, 8)
    torch.testing.assert_close(edited.module()(x), x.mean(-1, keepdim=True) + x)


def test_weights_that_are_needed_elsewhere_stay() -> None:
    block = heavy()
    model = Net(lambda net, x: net.a(x + net.a(x)), a=block)
    program, skips = found(model, (3, 8))
    edited = remove_branch(program, skips.expect(1))
    assert edited.removed == frozenset()
    x = torch.randn(2, 8)
    assert torch.equal(edited.module()(x), block(x))


def test_tensors_that_nothing_read_before_stay() -> None:
    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block, self.spare = SkipConnection(heavy()), linear()
            self.register_buffer("version", torch.tensor(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.block(x)

    program, skips = found(Unused(), (3, 8))
    edited = remove_branch(program, skips)
    assert set(edited.module().state_dict()) == {"spare.weight", "spare.bias", "version"}


def test_one_way_has_to_stay() -> None:
    """After the one edit there is no skip any more, and the records of before are stale."""
    program, skips = found(blocks("vector", 1), (3, 4))
    for first, second in ((remove_branch, remove_shortcut), (remove_shortcut, remove_branch)):
        edited = first(program, skips)
        assert len(skiplab.find(edited)) == 0
        with pytest.raises(StaleSkip, match="was found in another program: call `find` on this one again"):
            second(edited, skips)


@pytest.mark.parametrize("edit", [remove_branch, remove_shortcut])
def test_a_cell_state_stays(edit: Any) -> None:
    model = Net(lambda net, x: net.lstm(x)[0], lstm=nn.LSTM(8, 8, batch_first=True))
    program, skips = found(model, (2, 5, 8))
    with pytest.raises(UsageError, match=r"is a cell state inside the operator .*skips\.in_graph"):
        edit(program, skips.expect(1))


@pytest.mark.parametrize(("low", "high", "goes"), [(-1.0, 1.0, True), (-2.0, 2.0, False)])
def test_a_clamp_after_another_goes_only_where_it_is_the_same(low: float, high: float, goes: bool) -> None:
    net = Net(
        lambda net, x: F.hardtanh((y := F.hardtanh(net.a(x), low, high)) + net.f(y), -1.0, 1.0),
        a=linear(),
        f=heavy(),
    )
    program = skiplab.capture(net, (torch.randn(2, WIDTH),))
    left = remove_branch(program, skiplab.find(program))
    assert sum(op.target == "hardtanh" for op in left.ops) == (1 if goes else 2)


def test_layers_that_only_a_removed_part_of_a_concatenation_needed_go() -> None:
    net = Net(
        lambda net, x: torch.cat((x, a := net.f(x), net.g(torch.cat((x, a), 1))), 1),
        f=conv(4, 4),
        g=conv(8, 4),
    )
    program = skiplab.capture(net, (torch.randn(2, 4, 6, 6),))
    left = remove_branch(program, skiplab.find(program))
    assert not left.parameters
    half = remove_shortcut(program, skiplab.find(program)).module().to(torch.bfloat16)
    assert half(torch.randn(3, 4, 6, 6, dtype=torch.bfloat16)).dtype == torch.bfloat16
