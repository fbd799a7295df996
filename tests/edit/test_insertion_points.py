import inspect
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import skiplab
from networks import Net, SelectiveKernel, conv, heavy, linear
from oracles.edited import found
from skiplab.edit import place, places
from skiplab.errors import UsageError
from skiplab.models import resnet


def spans(model: nn.Module, shape: tuple[int, ...], *options: Any) -> list[tuple[str, str, str]]:
    """Modules of a place's ends, and its path."""
    program, _ = found(model, shape)
    return [(program.by_name[p.start].module, program.by_name[p.end].module, p.path) for p in places(program, *options)]


def test_around_the_blocks_of_a_plain_resnet() -> None:
    plain = resnet(20, width=4, skip=None)
    blocks = [f"layer{stage}.{i}" for stage in (1, 2, 3) for i in range(3)]
    found = spans(plain, (2, 3, 16, 16))
    assert [path for _, _, path in found] == blocks
    assert [end for _, end, _ in found] == [f"{block}.bn2" for block in blocks]


def test_before_the_norms_of_a_pre_activation() -> None:
    plain = resnet(20, width=4, skip=None, placement="pre")
    blocks = [f"layer{stage}.{i}" for stage in (1, 2, 3) for i in range(3)]
    found = spans(plain, (2, 3, 16, 16), 2, "pre")
    assert [end for _, end, _ in found] == [f"{block}.conv2" for block in blocks]
    assert [start for start, _, _ in found] == ["conv1", *(f"{block}.conv2" for block in blocks[:-1])]


@pytest.mark.parametrize("every", [1, 2, 3, 4])
def test_as_many_layers_as_asked(every: int) -> None:
    model = nn.Sequential(*(nn.Sequential(linear(), nn.ReLU()) for _ in range(6)))
    ends = [f"{last}.0" for last in range(every, 5, every)]
    assert [end for _, end, _ in spans(model, (3, 8), every)] == ends


def test_layers_beside_others_do_not_count() -> None:
    """A squeeze-excitation's two, and what lies inside parallel branches."""
    model = nn.Sequential(linear(), SelectiveKernel(), linear(), nn.ReLU(), linear(), linear())
    assert [(start, end) for start, end, _ in spans(model, (3, 8), 1)] == [("1", "2"), ("3", "4")]


def test_norms_and_views_behind_a_layer_belong_to_it() -> None:
    model = Net(
        lambda net, x: net.c(F.relu(net.n(net.b(net.a(x)).flatten(1).unflatten(1, (4, -1))).relu())),
        a=conv(3, 4),
        b=nn.Sequential(nn.Conv2d(4, 4, 1), nn.Flatten(2)),
        n=nn.LayerNorm(64),
        c=nn.Linear(64, 2),
    )
    ((_, end, _),) = spans(model, (2, 3, 8, 8), 1)
    assert end == "n"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"every": 0}, "every=0: give the number of weight layers that a shortcut goes around, at least 1"),
        ({"placement": "mid"}, "placement='mid': choose post or pre"),
        ({"every": 3}, "has 4 weight layers .* a shortcut around 3 of them, between the first and the last, needs 5"),
    ],
)
def test_what_cannot_be_proposed(options: Any, says: str) -> None:
    program, _ = found(nn.Sequential(heavy(), nn.ReLU(), heavy()), (3, 8))
    assert len(places(program)) == 1
    with pytest.raises(UsageError, match=says):
        inspect.unwrap(places)(program, **options)


def test_a_shortcut_starts_and_ends_at_a_tensor() -> None:
    def attend(net: Any, x: torch.Tensor) -> torch.Tensor:
        a, b, c = net.c(net.b(net.a(x))).unbind(1)
        return net.d(torch.relu(a * b + c))

    net = Net(attend, a=linear(), b=linear(), c=linear(), d=linear())
    program = skiplab.capture(net, (torch.randn(2, 3, 8),))
    for each in places(program, 1):
        assert program.by_name[each.start].shape
        assert program.by_name[each.end].shape
    with pytest.raises(UsageError, match="`unbind` returns several values"):
        place(program, "linear", "unbind")
