from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skiplab.models import ResNet, resnet


def by_hand(net: ResNet, x: Tensor) -> Tensor:
    """Zhang et al. 2019, Fig. 1 right, and the beginning and end of their CIFAR networks."""
    p = net.state_dict()
    x = (F.conv2d(x, p["conv1.weight"], padding=1) + p["bias1.bias"]).relu()
    for stage in (1, 2, 3):
        for i in range(len(net.get_submodule(f"layer{stage}"))):  # type: ignore[arg-type]
            name, stride = f"layer{stage}.{i}", 2 if stage > 1 and i == 0 else 1
            b1, b2, b3, b4 = (p[f"{name}.bias{k}.bias"] for k in (1, 2, 3, 4))
            y = F.conv2d(x + b1, p[f"{name}.conv1.weight"], stride=stride, padding=1)
            y = (y + b2).relu()
            y = F.conv2d(y + b3, p[f"{name}.conv2.weight"], padding=1)
            y = y * p[f"{name}.multiplier.scale"] + b4
            x = (F.pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, 0, y.shape[1] - x.shape[1])) + y).relu()
    return (x.mean(dim=(2, 3)) + p["bias3.bias"]) @ p["fc.weight"].T + p["fc.bias"]


def test_equals_the_papers_formulas() -> None:
    net = resnet(14, norm="fixup", width=4).double()
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.3)
    x = torch.randn(2, 3, 9, 10, dtype=torch.double)
    torch.testing.assert_close(net(x), by_hand(net, x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("depth", "span"), [(20, 2), (56, 2), (20, 3)])
def test_initial_weights(depth: int, span: Any) -> None:
    """Rules 1 and 2 of §3.2: the last of a branch is zero, the others L^(−1/(2m−2)) of what is usual."""
    net = resnet(depth, norm="fixup", width=32, span=span)
    number = 3 * 2 * ((depth - 2) // 6) // span
    for name, parameter in net.named_parameters():
        if name.endswith((f"conv{span}.weight", "bias")) or name.startswith("fc"):
            assert not parameter.any()
        elif name.endswith("scale"):
            assert parameter == 1
        else:
            usual = (2 / (9 * parameter.shape[0])) ** 0.5
            shrunk = usual if name == "conv1.weight" else usual * number ** (-1 / (2 * span - 2))
            assert parameter.std().item() == pytest.approx(shrunk, rel=0.08)


def test_bottlenecks_shrink_by_the_fourth_root() -> None:
    net = resnet(50, "imagenet", norm="fixup", width=16)
    weight = net.get_parameter("layer4.1.conv2.weight")
    assert weight.std().item() == pytest.approx((2 / (9 * 128)) ** 0.5 * 16 ** (-1 / 4), rel=0.03)


def growth(net: ResNet, steps: int = 0) -> float:
    """Variance of what the last block gives over that of what the first one takes, after some steps of training."""
    seen: dict[str, Tensor] = {}
    first, last = net.get_submodule("layer1.0"), list(net.get_submodule("layer3").children())[-1]
    first.register_forward_pre_hook(lambda _, inputs: seen.update(first=inputs[0]))
    last.register_forward_hook(lambda *hooked: seen.update(last=hooked[-1]))
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(16, 3, 8, 8, generator=generator), torch.randint(10, (16,), generator=generator)
    optimiser = torch.optim.SGD(net.parameters(), lr=0.05)
    for _ in range(steps):
        optimiser.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimiser.step()
    net(x)
    return (seen["last"].square().mean() / seen["first"].square().mean()).item()


def test_the_forward_variance_is_bounded_at_any_depth() -> None:
    """Without norm and Fixup each block adds about its input's variance, so it doubles."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        padded = (
            1 / 4
        )  # option A keeps a sixteenth of the pixels as they are, and adds three times as many channels of 0
        for depth in (8, 50, 98):
            assert growth(resnet(depth, norm="fixup", width=8)) == pytest.approx(padded, rel=0.3)
            assert growth(resnet(depth, norm="fixup", width=8), steps=4) < 2
        assert growth(resnet(50, norm=None, width=8)) > 2**12
