from typing import Any

import pytest
import torch
from torch import nn

from skiplab import models
from skiplab.errors import UsageError
from skiplab.models import resnet, wide_resnet


def parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize(
    ("depth", "widening", "millions"),
    [
        (40, 1, 0.6),
        (40, 2, 2.2),
        (40, 4, 8.9),
        (40, 8, 35.7),
        (28, 10, 36.5),
        (28, 12, 52.5),
        (22, 8, 17.2),
        (22, 10, 26.8),
        (16, 8, 11.0),
        (16, 10, 17.1),
    ],
)
def test_parameters_of_the_papers_table_4(depth: int, widening: int, millions: float) -> None:
    with torch.device("meta"):
        net = wide_resnet(depth, widening=widening)
    assert round(parameters(net) / 1e6, 1) == millions
    # 6n + 4: of the three projections one is needless where the first stage is as wide as the stem
    convolutions = sum(isinstance(module, nn.Conv2d) for module in net.modules())
    assert convolutions == depth - (widening == 1)


def test_the_named_one() -> None:
    with torch.device("meta"):
        net = models.wide_resnet28_10(dropout=0.3, num_classes=100)
        assert net(torch.empty(2, *net.example_input_shape)).shape == (2, 100)
        assert parameters(net) == parameters(wide_resnet(28, num_classes=100))


def test_it_is_a_pre_activation_network_with_wide_stages() -> None:
    wide = wide_resnet(10, width=2, widening=3)
    same = resnet(8, placement="pre", skip="B", width=2, widening=3)
    same.load_state_dict(wide.state_dict(), strict=True)
    assert [wide.get_parameter(f"layer{i}.0.conv2.weight").shape[0] for i in (1, 2, 3)] == [6, 12, 24]
    assert wide.conv1.out_channels == 2
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(wide.eval()(x), same.eval()(x))


@pytest.mark.parametrize("depth", [4, 9, 20, 27])
def test_depths_that_are_not_6n_plus_4(depth: Any) -> None:
    with pytest.raises(UsageError, match=r"such as (10|16|22) or"):
        wide_resnet(depth)
