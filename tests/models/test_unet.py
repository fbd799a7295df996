from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import skiplab
from edits import with_statistics
from skiplab.errors import UsageError
from skiplab.models import UNet, unet


def parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def made(**options: Any) -> UNet:
    """A network in float64 whose biases and norms are no identities."""
    net = with_statistics(unet(**options))
    assert isinstance(net, UNet)
    return net


def by_hand(net: UNet, x: Tensor, skips: tuple[bool, ...], combine: str, residual: bool, norm: bool) -> Tensor:
    """Fig. 1 from the parameters alone, level by level with the encoder's features on a stack; for fitting sizes."""
    p = net.state_dict()

    def normed(x: Tensor, name: str) -> Tensor:
        mean, var, weight, bias = (
            p[f"{name}.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / torch.sqrt(var + 1e-5) * weight + bias

    def pair(x: Tensor, name: str) -> Tensor:
        first, second = (f"{name}.branch.{i}" for i in ((0, 3) if norm else (0, 2)))
        y = F.conv2d(x, p[f"{first}.weight"], p.get(f"{first}.bias"), padding=1)
        y = (normed(y, f"{name}.branch.1") if norm else y).clamp(min=0)
        y = F.conv2d(y, p[f"{second}.weight"], p.get(f"{second}.bias"), padding=1)
        y = normed(y, f"{name}.branch.4") if norm else y
        if residual:
            projection = p.get(f"{name}.shortcut.weight")
            y = y + (x if projection is None else torch.einsum("nchw,dc->ndhw", x, projection[..., 0, 0]))
        return y.clamp(min=0)

    names = ["level" + ".inner" * level for level in range(len(skips))]
    kept = [pair(x, "encode")]
    for name in names:
        n, c, h, w = kept[-1].shape
        pooled = kept[-1].reshape(n, c, h // 2, 2, w // 2, 2).amax((3, 5))
        kept.append(pair(pooled, f"{name}.encode"))
    x = kept.pop()
    for level, name in reversed(list(enumerate(names))):
        weight, bias = p[f"{name}.up.weight"], p[f"{name}.up.bias"]
        n, _, h, w = x.shape
        x = torch.einsum("nchw,cdij->ndhiwj", x, weight).reshape(n, -1, 2 * h, 2 * w) + bias[:, None, None]
        carried = kept.pop()
        if skips[level]:
            x = torch.cat((carried, x), 1) if combine == "concat" else carried + x
        x = pair(x, f"{name}.after")
    return F.conv2d(x, p["head.weight"], p["head.bias"])


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("combine", ["concat", "add"])
@pytest.mark.parametrize(
    "skips", [(True, True, True), (True, False, True), (False, True, False), (False,) * 3, (True,)]
)
def test_by_hand(skips: tuple[bool, ...], combine: Any, residual: bool, norm: bool) -> None:
    options: dict[str, Any] = {"skips": skips, "combine": combine, "residual": residual, "norm": norm}
    net = made(depth=len(skips), width=3, in_channels=2, num_classes=4, **options)
    x = torch.randn(2, 2, 16, 8, dtype=torch.double)
    with torch.no_grad():
        torch.testing.assert_close(net(x), by_hand(net, x, **options))


@pytest.mark.parametrize("on", [True, False])
def test_one_word_for_all_levels(on: bool) -> None:
    net, same = unet(depth=2, width=2, skips=on), unet(depth=2, width=2, skips=(on, on))
    same.load_state_dict(net.state_dict())
    x = torch.randn(1, 1, 8, 8)
    assert torch.equal(net(x), same(x))


@given(st.integers(1, 3), st.integers(1, 20), st.integers(1, 20))
def test_any_size_comes_back_as_it_was(depth: int, height: int, width: int) -> None:
    """The oracle repeats the outermost pixels by index, runs the fitting size, and cuts out the middle."""
    torch.manual_seed(0)
    net = unet(depth=depth, width=2, num_classes=3)
    x = torch.randn(2, 1, height, width)
    rows, columns = (-(-side // 2**depth) * 2**depth for side in (height, width))
    top, left = (rows - height) // 2, (columns - width) // 2
    row, column = (torch.arange(rows) - top).clamp(0, height - 1), (torch.arange(columns) - left).clamp(0, width - 1)
    with torch.no_grad():
        whole = net(x[:, :, row][..., column])
        assert whole.shape == (2, 3, rows, columns)
        assert torch.equal(net(x), whole[:, :, top : top + height, left : left + width])


@pytest.mark.parametrize("size", [(16, 24), (15, 9), (1, 30)])
def test_long_skips_are_found_proved_and_named_at_any_size(size: tuple[int, int]) -> None:
    net = made(depth=3, width=2, skips=(True, False, True))
    program = skiplab.capture(net, (torch.randn(2, 1, *size, dtype=torch.double),))
    skips = skiplab.find(program).expect(2)
    assert [(s.path, s.combine, s.shortcut, s.long) for s in skips] == [
        ("level.inner.inner", "concat", "identity", True),
        ("level", "concat", "identity", True),
    ]
    assert skips[0].parent == skips[1].id
    skiplab.prove(program, skips)


def closed_form(d: int, w: int, inputs: int, classes: int, on: tuple[bool, ...], residual: bool, norm: bool) -> int:
    """Two convolutions a pair, with biases, or two norms of two parameters a channel; `on`: who concatenates."""

    def pair(a: int, b: int) -> int:
        return 9 * a * b + 9 * b * b + (4 * b if norm else 2 * b) + (a * b if residual and a != b else 0)

    total = pair(inputs, w) + w * classes + classes
    for level in range(d):
        c = w * 2**level
        total += pair(c, 2 * c) + 4 * 2 * c * c + c + pair(2 * c if on[level] else c, c)
    return total


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("skips", [(True, True), (False, True), (False, False)])
def test_parameter_count(skips: tuple[bool, ...], residual: bool, norm: bool) -> None:
    options: dict[str, Any] = {"depth": 2, "width": 3, "in_channels": 2, "num_classes": 5}
    options |= {"residual": residual, "norm": norm}
    assert parameters(unet(**options, skips=skips)) == closed_form(2, 3, 2, 5, skips, residual, norm)
    added = parameters(unet(**options, skips=skips, combine="add"))
    assert added == parameters(unet(**options, skips=False)) == closed_form(2, 3, 2, 5, (False,) * 2, residual, norm)


def test_the_papers_network() -> None:
    """23 convolutions, up-convolutions included (§2), 64 … 1024 channels, and the parameters that Fig. 1 gives."""
    with torch.device("meta"):
        net = unet()
        assert net(torch.empty(1, *net.example_input_shape)).shape == (1, 2, 64, 64)
        assert net(torch.empty(1, 1, 572, 572)).shape == (1, 2, 572, 572)
    convolutions = [m for m in net.modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))]
    assert len(convolutions) == 23
    assert max(m.out_channels for m in convolutions) == 1024
    assert parameters(net) == closed_form(4, 64, 1, 2, (True,) * 4, False, False)


def test_a_skip_costs_what_the_docstring_says() -> None:
    for residual, area in ((False, 9), (True, 9 + 2)):
        counts = [
            parameters(unet(depth=3, width=5, residual=residual, skips=tuple(i != off for i in range(3))))
            for off in (0, 1, 2, None)
        ]
        assert [counts[-1] - count for count in counts[:-1]] == [area * (5 * 2**i) ** 2 for i in range(3)]


def test_initial_weights() -> None:
    """√(2/N) for N incoming nodes, before a ReLU; √(1/N) in up-convolutions; no biases."""
    net = unet(depth=2, width=32)
    conv, up = net.get_submodule("level.encode.branch.2"), net.get_submodule("level.inner.up")
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(up, nn.ConvTranspose2d)
    assert conv.weight.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.03)
    assert up.weight.std().item() == pytest.approx((1 / 128) ** 0.5, rel=0.03)
    assert all(torch.all(value == 0) for name, value in net.named_parameters() if name.endswith("bias"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 0}, "depth=0"),
        ({"num_classes": 0}, "num_classes=0"),
        ({"skips": (True, False)}, r"skips=\(True, False\): give True, False, or 4 of them"),
        ({"skips": "all"}, "skips='all'"),
        ({"skips": (1, 0, 1, 0)}, "skips="),
        ({"combine": "mul"}, "combine='mul'.*'concat', 'add'"),
        ({"residual": None}, "residual=None"),
        ({"levels": 3}, r"\['levels'\].*depth"),
    ],
)
def test_requests_that_make_no_sense(options: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        unet(**options)
