from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import skiplab
from cases import captured
from edits import Untouched, assert_sound, captured_with_statistics, deviation
from networks import BasicBlock, Net, around
from skiplab.edit import to_pre_activation
from skiplab.errors import UsageError
from skiplab.graph.program import Program
from skiplab.models import resnet
from skiplab.models.resnet import ResidualBlock, ResNet

IMAGE = torch.randn(2, 3, 16, 16)


def blocks(model: ResNet) -> list[ResidualBlock]:
    return [block for stage in model.stages for block in model.get_submodule(stage).children()]  # type: ignore[misc]


def without_activations_on_shortcuts(model: ResNet, x: Tensor, norm: bool) -> Tensor:
    """The model's own modules, with each activation after a merge moved to the branch and to the head."""
    shrunk = (1 + 1e-5) ** -0.5 if norm else 1.0  # what a batch norm does at first
    stem = model.maxpool(F.relu(model.bn1(model.conv1(x))))  # type: ignore[misc]
    raw, active = stem, stem
    for block in blocks(model):
        raw = block.shortcut(raw) + block.branch(active)
        active = F.relu(raw * shrunk)
    return model.fc(model.avgpool(active).flatten(1))


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("options", [{"skip": "A"}, {"skip": "B"}, {"skip": "C"}, {"span": 3}])
def test_the_function_is_the_old_one_without_the_activations_on_shortcuts(options: Any, norm: bool) -> None:
    model, program = captured_with_statistics(resnet(20, width=4, **options), IMAGE)
    skips = skiplab.find(program)
    with Untouched(program):
        pre = to_pre_activation(program, skips, norm)
    x = torch.randn(3, 3, 16, 16, dtype=torch.double)
    assert isinstance(model, ResNet)
    wanted = without_activations_on_shortcuts(model, x, norm)
    assert deviation(pre.module()(x), wanted) < 1e-12
    assert deviation(model(x), wanted) > 1e-2
    assert_sound(pre, x)


def test_bottlenecks_in_single_precision() -> None:
    model, program = captured_with_statistics(
        resnet(50, "imagenet", width=4), torch.randn(2, 3, 32, 32), dtype=torch.float32
    )
    pre = to_pre_activation(program, skiplab.find(program).expect(16))
    x = torch.randn(3, 3, 32, 32)
    assert isinstance(model, ResNet)
    assert deviation(pre.module()(x), without_activations_on_shortcuts(model, x, norm=True)) < 1e-4


def test_nothing_changes_where_the_activation_did_nothing() -> None:
    """Sums that are nowhere negative: the last batch norm of each branch lifts them."""
    model, _ = captured_with_statistics(resnet(20, width=4), IMAGE)
    assert isinstance(model, ResNet)
    for block in blocks(model):
        nn.init.constant_(block.bn2.bias, 1e2)  # type: ignore[arg-type]
        nn.init.constant_(block.bn2.weight, 1e-3)  # type: ignore[arg-type]
    program = skiplab.capture(model, (IMAGE.double(),))
    x = torch.randn(3, 3, 16, 16, dtype=torch.double)
    for norm, precision in ((False, 1e-12), (True, 1e-4)):
        pre = to_pre_activation(program, skiplab.find(program), norm)
        assert deviation(pre.module()(x), model(x)) < precision


def test_it_is_a_pre_activation_network() -> None:
    program = skiplab.capture(resnet(20, width=4), (IMAGE,))
    pre = to_pre_activation(program, skiplab.find(program))
    built = skiplab.capture(resnet(20, width=4, placement="pre"), (IMAGE,))
    found, wanted = skiplab.find(pre), skiplab.find(built)
    # A pre-activation ResNet has no activation in its stem, and this one's stays.
    assert skiplab.census(pre).nonlinearities.min == skiplab.census(built).nonlinearities.min + 1
    assert skiplab.census(pre).weight_layers == skiplab.census(built).weight_layers
    assert [(s.id, s.combine, s.shortcut) for s in found] == [(s.id, s.combine, s.shortcut) for s in wanted]
    assert {skip.activation_after for skip in found} == {None}
    assert {skip.activation_after for skip in skiplab.find(program)} == {"relu"}
    assert list(skiplab.lint(pre)) == []


def test_names_and_what_the_new_norms_start_as() -> None:
    model, program = captured_with_statistics(resnet(8, width=4), IMAGE)
    pre = to_pre_activation(program, skiplab.find(program))
    state, before = pre.module().state_dict(), model.state_dict()
    blocks = ["layer1.0", "layer2.0", "layer3.0"]
    norms = ["layer2.0.pre_norm", "layer3.0.pre_norm", "layer3.0.post_norm"]
    parts = {"weight": 1, "bias": 0, "running_mean": 0, "running_var": 1, "num_batches_tracked": 0}
    new = {f"{norm}.{part}" for norm in norms for part in parts} | {f"{block}.conv2.bias" for block in blocks}
    assert {*state} - {*before} == new == pre.added
    assert {*before} - {*state} == {f"{block}.bn2.{part}" for block in blocks for part in parts} == pre.removed
    for name in new - {f"{block}.conv2.bias" for block in blocks}:
        assert set(state[name].flatten().tolist()) == {parts[name.rpartition(".")[2]]}
    with pytest.raises(UsageError, match="before it was folded"):  # its layers now have the norms in them
        pre.module().load_state_dict(before)
    pre.module().load_state_dict(state)


def test_new_norms_estimate_their_statistics_in_training() -> None:
    _, program = captured_with_statistics(resnet(8, width=4), IMAGE)
    module = to_pre_activation(program, skiplab.find(program)).module().train()
    module(IMAGE.double())
    assert all(float(value.abs().max()) > 0 for name, value in module.state_dict().items() if "norm.running" in name)


def test_of_some_blocks_those_that_follow_and_are_not_chosen_read_the_activation() -> None:
    model, program = captured_with_statistics(resnet(20, width=4), IMAGE)
    skips = skiplab.find(program)
    x = torch.randn(3, 3, 16, 16, dtype=torch.double)
    for chosen in (skips[:1], skips[::2]):
        pre = to_pre_activation(program, chosen, norm=False)
        assert deviation(pre.module()(x), model(x)) < 1e-12
    two = to_pre_activation(program, skips[:2], norm=False)
    assert deviation(two.module()(x), model(x)) > 1e-3


def test_other_activations_with_their_arguments() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convs = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in range(4))
            self.norms = nn.ModuleList(nn.BatchNorm2d(4, eps=0.5, momentum=0.3) for _ in range(4))

        def branch(self, i: int, x: Tensor) -> Tensor:
            return self.norms[i + 1](self.convs[i + 1](F.elu(self.norms[i](self.convs[i](x)))))

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            x = F.leaky_relu(x + self.branch(0, x), 0.3)
            x = F.leaky_relu(x + self.branch(2, x), 0.3)
            return x, x.mean((2, 3))

    model, program = captured_with_statistics(Two(), torch.randn(2, 4, 8, 8))
    pre = to_pre_activation(program, skiplab.find(program))
    x = torch.randn(3, 4, 8, 8, dtype=torch.double)
    assert isinstance(model, Two)
    first = x + model.branch(0, x)
    last = F.leaky_relu((first + model.branch(2, F.leaky_relu(first / 1.5**0.5, 0.3))) / 1.5**0.5, 0.3)
    assert deviation(pre.module()(x), (last, last.mean((2, 3)))) < 1e-12
    settings = [node.args[6:8] for node in pre.nodes.values() if node.name.startswith("batch_norm")]
    assert settings == [(0.3, 0.5)] * 4
    assert {"pre_norm.weight", "post_norm.weight"} <= pre.module().state_dict().keys()
    assert_sound(pre, x)


def program_of(model: nn.Module, *shape: int) -> Program:
    return skiplab.capture(model.eval(), (torch.randn(*shape),))


def block(function: Callable[[Any, Tensor, Tensor], Any]) -> nn.Module:
    """`function(net, x, F(x))` with F two convolutions, each with its norm."""
    layers = [nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1)]
    return Net(lambda net, x: function(net, x, net.norm(net.f(x))), f=nn.Sequential(*layers), norm=nn.BatchNorm2d(4))


def shared_kernel() -> nn.Module:
    conv = nn.Conv2d(4, 4, 3, padding=1)
    branch = nn.Sequential(conv, nn.ReLU(), conv, nn.BatchNorm2d(4))
    return Net(lambda net, x: F.relu(x + net.f(x)), f=branch)


@pytest.mark.parametrize(
    ("build", "shape", "message"),
    [
        (
            lambda: resnet(8, width=4, placement="pre"),
            (2, 3, 16, 16),
            "`layer1.0`: its sum .* is read by .*`batch_norm`",
        ),
        (lambda: around(lambda x, f: F.relu(x + f)), (3, 8), "`forward`: its branch ends in `linear`"),
        (lambda: block(lambda n, x, f: F.relu(s := x + f) + s.mean()), (2, 4, 8, 8), "by `relu`, `mean`, and that of"),
        (lambda: block(lambda n, x, f: ((s := x + f), F.relu(s))), (2, 4, 8, 8), "is read by `relu`, the output, and"),
        (lambda: block(lambda n, x, f: F.softmax(x + f, 1)), (2, 4, 8, 8), "is read by `softmax`"),
        (lambda: block(lambda n, x, f: F.relu(torch.cat((x, f), 1))), (2, 4, 8, 8), "`forward` joins by concat"),
        (lambda: block(lambda n, x, f: F.relu(x + 0.5 * f)), (2, 4, 8, 8), "its branch ends in `mul`"),
        (lambda: block(lambda n, x, f: (F.relu(x + f), f)), (2, 4, 8, 8), "its branch ends in `batch_norm`.*the only"),
        (shared_kernel, (2, 4, 8, 8), "its branch ends in `batch_norm` .None, 4, 8, 8., and that of a post-activation"),
    ],
)
def test_blocks_of_another_form(build: Callable[[], nn.Module], shape: tuple[int, ...], message: str) -> None:
    program = program_of(build(), *shape)
    with pytest.raises(UsageError, match=message):
        to_pre_activation(program, skiplab.find(program))


def test_a_training_graph_and_a_cell_state() -> None:
    program = skiplab.capture(BasicBlock(inplace=False), (torch.randn(2, 4, 8, 8),), train=True)
    with pytest.raises(UsageError, match="captured as a training graph"):
        to_pre_activation(program, skiplab.find(program))
    lstm = captured("lstm")
    with pytest.raises(UsageError, match="is a cell state inside the operator"):
        to_pre_activation(lstm.program, lstm.skips)
