from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import skiplab
from cases import captured
from edits import Untouched, assert_sound, captured_with_statistics, deviation
from networks import Net, RepVgg
from skiplab.edit import fold
from skiplab.errors import UsageError
from skiplab.graph.program import Program
from skiplab.models import resnet

IMAGE = torch.randn(2, 4, 8, 8)


def targets(program: Program) -> list[str]:
    return [op.target for op in program.ops if op.kind != "input"]


def norms(program: Program) -> int:
    return sum(op.kind == "batch_norm" for op in program.ops)


def normed(layer: nn.Module, channels: int = 4) -> nn.Sequential:
    kinds = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
    return nn.Sequential(layer, kinds[len(layer.kernel_size)](channels))  # type: ignore[arg-type, index]


def ac_net() -> Net:
    """Ding et al. 2019: a square, a vertical and a horizontal kernel."""
    square = normed(nn.Conv2d(4, 4, 3, padding=1, bias=False))
    tall, wide = normed(nn.Conv2d(4, 4, (3, 1), padding=(1, 0))), normed(nn.Conv2d(4, 4, (1, 3), padding=(0, 1)))
    return Net(lambda net, x: F.relu(net.wide(x) + net.square(x) + net.tall(x)), square=square, tall=tall, wide=wide)


def mobile_one(groups: int) -> Net:
    """Vasu et al. 2023: several kernels of the same size, a 1×1 and a norm."""
    layers = nn.ModuleList(normed(nn.Conv2d(4, 4, 3, padding=1, groups=groups, bias=False)) for _ in range(3))
    small = normed(nn.Conv2d(4, 4, 1, groups=groups, bias=False))
    norm = nn.BatchNorm2d(4)
    return Net(
        lambda net, x: F.relu(sum(layer(x) for layer in net.layers) + net.small(x) + net.norm(x)),
        layers=layers,
        small=small,
        norm=norm,
    )


class Scale(nn.Module):
    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.by = nn.Parameter(torch.randn(shape))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.by


def conv(inputs: int = 4, outputs: int = 4, kernel: Any = 3, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, **options)


def net(function: Callable[[Any, Tensor], Any], **modules: nn.Module) -> Callable[[], Net]:
    return lambda: Net(function, **modules)


def pair(a: nn.Module, b: nn.Module) -> Callable[[], Net]:
    return net(lambda net, x: F.relu(net.a(x) + net.b(x)), a=a, b=b)


ONE_LAYER = {
    "repvgg": RepVgg,
    "ac_net": ac_net,
    "mobile_one": lambda: mobile_one(1),
    "mobile_one_groups": lambda: mobile_one(2),
    "mobile_one_depthwise": lambda: mobile_one(4),
    "identity": net(lambda net, x: F.relu(x + net.a(x)), a=normed(conv(padding=1))),
    "strided": pair(normed(conv(4, 6, stride=2, padding=1), 6), normed(conv(4, 6, 1, stride=2), 6)),
    "dilated": pair(conv(dilation=2, padding=2), conv(kernel=1)),
    "both_dilated": pair(conv(kernel=5, dilation=2, padding=4), conv(dilation=2, padding=2)),
    "union": pair(conv(kernel=(1, 3), padding=(0, 1)), conv(kernel=(5, 1), padding=(2, 0))),
    "off_centre": pair(conv(kernel=4, padding=1, stride=2), conv(kernel=2, stride=2)),
    "same": pair(conv(kernel=4, padding="same"), conv(padding=1)),
    "same_inside": pair(conv(kernel=2, padding="same"), conv(padding=1)),
    "valid": pair(conv(padding="valid"), conv()),
    "constants": net(
        lambda net, x: F.relu(0.5 * net.a(x) - net.b(x) / 3 + 2 * x - x), a=conv(padding=1), b=conv(kernel=1)
    ),
    "sum_of_list": net(lambda net, x: sum([net.a(x), x, net.b(x)]), a=conv(padding=1), b=conv(kernel=1)),
    "vectors": net(
        lambda net, x: F.relu(net.s(net.a(x)) + net.t(x) + net.u(net.v(x))),
        a=conv(padding=1),
        s=Scale(4, 1, 1),
        t=Scale(1, 4, 1, 1),
        u=Scale(),
        v=conv(kernel=1),
    ),
    "shifted": net(lambda net, x: F.relu(net.a(x) + net.s.by + (x - 1.5)), a=conv(padding=1), s=Scale(4, 1, 1)),
    "viewed_vectors": net(lambda net, x: x + net.s.by.view(-1, 1, 1) * net.a(x), a=conv(padding=1), s=Scale(4)),
    "norm_of_sum": net(lambda net, x: net.n(net.a(x) + x), a=conv(padding=1), n=nn.BatchNorm2d(4)),
    "twice": net(lambda net, x: F.relu((y := net.a(x)) + y), a=conv()),
    "affine_free": net(lambda net, x: net.n(net.a(x)), a=conv(bias=False), n=nn.BatchNorm2d(4, affine=False)),
    "transposed": pair(
        normed(nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2), 6),
        normed(nn.ConvTranspose2d(4, 6, 2, stride=2, groups=2), 6),
    ),
    "transposed_identity": net(lambda net, x: x + net.a(x), a=normed(nn.ConvTranspose2d(4, 4, 3, padding=1, groups=2))),
    "transposed_union": pair(
        nn.ConvTranspose2d(4, 4, (1, 3), padding=(0, 1)), nn.ConvTranspose2d(4, 4, (3, 1), padding=(1, 0))
    ),
}


@pytest.mark.parametrize("dtype", [torch.double, torch.float32])
@pytest.mark.parametrize("name", ONE_LAYER)
def test_a_linear_sum_becomes_one_layer(name: str, dtype: torch.dtype) -> None:
    model, program = captured_with_statistics(ONE_LAYER[name](), IMAGE, dtype=dtype)
    with Untouched(program):
        folded = fold(program)
    x = torch.randn(3, 4, 8, 8, dtype=dtype)
    assert [target for target in targets(folded) if target != "relu"] in (["conv2d"], ["conv_transpose2d"])
    assert deviation(folded.module()(x), model(x)) < (1e-12 if dtype == torch.double else 1e-5)
    assert all(tensor.dtype == dtype for tensor in folded.tensors.values())
    assert_sound(folded, x)


@pytest.mark.parametrize("shape", [(3, 8), (2, 5, 8)])
def test_linear_layers(shape: tuple[int, ...]) -> None:
    a, b = nn.Linear(8, 8, bias=False), nn.Linear(8, 8)
    model, program = captured_with_statistics(
        Net(lambda net, x: F.relu(net.a(x) + net.s(net.b(x)) + 0.1 * x), a=a, b=b, s=Scale(8)), torch.randn(shape)
    )
    folded = fold(program)
    x = torch.randn(shape, dtype=torch.double)
    assert targets(folded) == ["linear", "relu"]
    assert deviation(folded.module()(x), model(x)) < 1e-12
    assert_sound(folded, x)


def test_a_norm_over_features() -> None:
    model, program = captured_with_statistics(nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4)), torch.randn(3, 8))
    assert targets(fold(program)) == ["linear"]
    x = torch.randn(5, 8, dtype=torch.double)
    assert deviation(fold(program).module()(x), model(x)) < 1e-12


def shared() -> Net:
    layer = conv(padding=1)
    return Net(lambda net, x: net.a(net.n(net.a(x))), a=layer, n=nn.BatchNorm2d(4))


LEFT_ALONE = {
    "read_twice": net(lambda net, x: (y := net.a(x)) * net.n(y), a=conv(), n=nn.BatchNorm2d(4)),
    "shared": shared,
    "computed": lambda: Net(
        lambda net, x: net.n(net.a(x)), a=nn.utils.parametrizations.weight_norm(conv()), n=nn.BatchNorm2d(4)
    ),
    "own_statistics": net(lambda net, x: net.n(net.a(x)), a=conv(), n=nn.BatchNorm2d(4, track_running_stats=False)),
    "other_dimension": net(lambda net, x: net.a(x) * net.s.by, a=conv(padding=1), s=Scale(8)),
    "other_source": net(lambda net, x: net.a(x) + net.b(F.relu(x)), a=conv(), b=conv()),
    "other_stride": net(lambda net, x: net.a(x) + net.b(x), a=conv(padding=1, stride=2), b=conv(kernel=5)),
    "other_groups": net(lambda net, x: net.a(x) + net.b(x), a=conv(groups=2), b=conv()),
    "other_dilation": net(lambda net, x: net.a(x) + net.b(x), a=conv(dilation=2), b=conv(kernel=5)),
    "other_places": net(lambda net, x: net.a(x) + net.b(x), a=conv(kernel=2, dilation=2, padding=1), b=conv(kernel=1)),
    "other_kind": net(lambda net, x: net.a(x) + net.b(x), a=conv(padding=1), b=nn.ConvTranspose2d(4, 4, 3, padding=1)),
    "broadcast": net(lambda net, x: net.a(x) + net.b(x), a=conv(4, 1, kernel=8), b=conv()),
    "strided_identity": net(lambda net, x: (y := F.adaptive_avg_pool2d(x, 1)) + net.a(y), a=conv(padding=1, stride=2)),
    "norm_alone": net(lambda net, x: F.relu(net.n(x) + x), n=nn.BatchNorm2d(4)),
    "sizes": net(lambda net, x: net.a(x) * x.shape[0] + (x.shape[0] * 2 + 1), a=conv()),
    "broadcast_factor": net(lambda net, x: net.a(x) * net.s.by, a=conv(4, 1), s=Scale(4, 1, 1)),
    # "same" pads the even kernel at its end alone, which no number says
    "same_and_wider": net(
        lambda net, x: net.a(x) + net.b(x), a=conv(kernel=(2, 3), padding="same"), b=conv(kernel=(1, 5), padding=(0, 2))
    ),
    "modulated": net(lambda net, x: net.a(x) * x.mean((1, 2, 3), keepdim=True), a=conv()),
}


@pytest.mark.parametrize("name", LEFT_ALONE)
def test_what_cannot_be_one_layer_stays(name: str) -> None:
    model, program = captured_with_statistics(LEFT_ALONE[name](), IMAGE)
    folded = fold(program)
    assert targets(folded) == targets(program)
    assert not folded.removed
    assert not folded.added
    assert deviation(folded.module()(IMAGE.double()), model(IMAGE.double())) == 0


def test_a_part_of_a_sum_is_folded_where_the_rest_cannot_be() -> None:
    model, program = captured_with_statistics(
        Net(lambda net, x: (net.a(x) + x) + F.relu(net.b(x)), a=normed(conv(padding=1)), b=normed(conv(padding=1))),
        IMAGE,
    )
    folded = fold(program)
    assert Counter(targets(folded)) == {"conv2d": 2, "relu": 1, "add": 1}
    assert deviation(folded.module()(IMAGE.double()), model(IMAGE.double())) < 1e-12


def test_a_written_buffer_is_no_constant() -> None:
    class Counting(nn.Module):
        scale: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.a = conv()
            self.register_buffer("scale", torch.ones(()))

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x) * self.scale
            self.scale.add_(1)
            return x

    program = skiplab.capture(Counting().eval(), (IMAGE,))
    assert targets(fold(program)) == targets(program)


def test_checkpoints_of_before_are_refused_and_its_own_load() -> None:
    model, program = captured_with_statistics(resnet(8, width=4), torch.randn(2, 3, 8, 8))
    module = fold(program).module()
    with pytest.raises(UsageError, match=r"this checkpoint holds `bn1\.bias`, so it is one of the network before"):
        module.load_state_dict(model.state_dict())
    with pytest.raises(UsageError, match="before it was folded"):
        nn.Sequential(module).load_state_dict({f"0.{name}": value for name, value in model.state_dict().items()})
    module.load_state_dict(module.state_dict())


def test_names() -> None:
    """Of the largest kernel's layer; the bias is called like it, what is gone is on record, checkpoints still load."""
    model, program = captured_with_statistics(RepVgg(), IMAGE)
    folded = fold(program)
    assert set(folded.module().state_dict()) == {"three.0.weight", "three.0.bias"}
    assert folded.added == {"three.0.bias"}
    assert folded.removed == {*model.state_dict()} - {"three.0.weight"}


@pytest.mark.parametrize("name", ["timm_repvgg", "timm_mobileone", "resnet18"])
def test_published_networks(name: str) -> None:
    case = captured(name)
    with Untouched(case.program):
        folded = fold(case.program)
    assert norms(folded) == 0 < norms(case.program)
    before = case.program.module()
    with torch.no_grad():
        assert deviation(folded.module()(*case.args), before(*case.args)) < 1e-5
    foldable = [each for each in skiplab.find(case.program).non_skips if each.reason == "foldable"]
    merges = [sum(op.kind == "merge" for op in each.ops) for each in (case.program, folded)]
    assert (merges[1] == 0) == (name != "resnet18")
    assert skiplab.find(folded).non_skips == () or not foldable


def test_a_resnets_skips_stay() -> None:
    model, program = captured_with_statistics(resnet(20, width=4, skip="B"), torch.randn(2, 3, 16, 16))
    folded = fold(program)
    ids = [(skip.id, skip.combine, skip.shortcut) for skip in skiplab.find(program)]
    assert [(skip.id, skip.combine, skip.shortcut) for skip in skiplab.find(folded)] == ids
    assert norms(folded) == 0
    assert "layer1.0.conv1.bias" in folded.module().state_dict()
    x = torch.randn(3, 3, 16, 16, dtype=torch.double)
    assert deviation(folded.module()(x), model(x)) < 1e-12
    assert_sound(folded, x)


def test_a_training_graph() -> None:
    program = skiplab.capture(RepVgg(), (IMAGE,), train=True)
    with pytest.raises(UsageError, match=r"captured as a training graph.*without train=True"):
        fold(program)
