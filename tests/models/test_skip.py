from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from skiplab.errors import UsageError
from skiplab.models import PadShortcut, SkipConnection, concat


def test_the_four_parts_meet_in_the_published_order() -> None:
    x, branch, shortcut = torch.randn(2, 3), nn.Linear(3, 3), nn.Linear(3, 3)
    net = SkipConnection(branch, shortcut, torch.sub, torch.sigmoid)
    assert torch.equal(net(x), torch.sigmoid(shortcut(x) - branch(x)))


def test_the_default_is_the_identity_residual() -> None:
    x, branch = torch.randn(2, 3), nn.Linear(3, 3)
    assert torch.equal(SkipConnection(branch)(x), x + branch(x))


def test_the_twin_has_no_merge() -> None:
    x, branch = torch.randn(2, 3), nn.Linear(3, 3)
    assert torch.equal(SkipConnection(branch, shortcut=None, after=torch.relu)(x), branch(x).relu())


def test_concat_puts_the_shortcut_first() -> None:
    x, branch = torch.randn(2, 3), nn.Linear(3, 5)
    assert torch.equal(SkipConnection(branch, combine=concat)(x), torch.cat([x, branch(x)], 1))


def test_modules_are_registered_under_the_name_of_their_part() -> None:
    net = SkipConnection(nn.Linear(3, 3), nn.Linear(3, 3, bias=False))
    assert list(net.state_dict()) == ["branch.weight", "branch.bias", "shortcut.weight"]


class Own(SkipConnection):
    """Its branch and shortcut are methods, its combine is handed in, its after is the default."""

    def __init__(self) -> None:
        super().__init__(combine=torch.mul)
        self.conv1 = nn.Linear(3, 3)

    def branch(self, x: Tensor) -> Tensor:
        return self.conv1(x)

    def shortcut(self, x: Tensor) -> Tensor:
        return 2 * x


def test_a_subclass_owns_the_parts_that_it_defines_and_its_parameter_names() -> None:
    x, net = torch.randn(2, 3), Own()
    assert torch.equal(net(x), 2 * x * net.conv1(x))
    assert list(net.state_dict()) == ["conv1.weight", "conv1.bias"]


def test_copies_are_independent() -> None:
    x, net = torch.randn(2, 3), Own()
    before = net(x)
    copy = deepcopy(net)
    nn.init.zeros_(copy.conv1.weight)
    assert torch.equal(net(x), before)
    assert not torch.equal(copy(x), before)


@given(st.integers(1, 4), st.integers(0, 5), st.integers(1, 3), st.integers(1, 7), st.booleans())
def test_padding_is_a_fixed_selection_of_pixels(
    channels: int, extra: int, stride: int, size: int, both_sides: bool
) -> None:
    """The oracle is a strided 1×1 convolution with a matrix of ones and zeros."""
    before = extra // 2 if both_sides else 0
    selection = torch.zeros(channels + extra, channels, 1, 1)
    for channel in range(channels):
        selection[before + channel, channel] = 1
    x = torch.randn(2, channels, size, size + 1)
    padded = PadShortcut(channels, channels + extra, stride, both_sides)(x)
    assert torch.equal(padded, F.conv2d(x, selection, stride=stride))


def test_padding_cannot_take_channels_away() -> None:
    with pytest.raises(UsageError, match="8 channels into 4"):
        PadShortcut(8, 4, 1)
