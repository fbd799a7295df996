import pytest
import torch
from torch import Tensor, nn

import skiplab
from cases import captured
from networks import Net, Transformer, conv, heavy, linear
from skiplab.data.bound_batches import validate_batches
from skiplab.errors import UsageError
from skiplab.graph.program import Program
from skiplab.measure import lesion
from skiplab.measure.lesion import Kind
from skiplab.measure.lesions.replacements import branch_moments, noise, of_channels, shuffle
from skiplab.measure.lesions.resumable_pass import Part, Passes


def part_of(program: Program, x: Tensor) -> Part:
    (given,) = validate_batches(program, [(x, None)])
    return Part(given, 0, print)


def test_moments_against_torch_on_the_module() -> None:
    torch.manual_seed(0)
    model = Net(lambda net, x: x + net.b(x), b=nn.Sequential(conv(), nn.Conv2d(4, 4, 1)))
    xs = [torch.randn(n, 4, 8, 8) for n in (5, 2)]
    program = skiplab.capture(model.eval(), (xs[0],))
    (skip,) = skiplab.find(program)
    passes = Passes(program, [(x, None) for x in xs], {"moments": 1}, {}, {})
    mean, variance = branch_moments(passes, "moments", skip.branch)[skip.branch[0]]
    with torch.no_grad():
        wanted = model.b(torch.cat(xs)).double()  # type: ignore[operator]
    assert torch.allclose(mean, wanted.mean(0), atol=1e-6)
    assert torch.allclose(variance, wanted.var(0, correction=0), atol=1e-6)
    average, deviation = of_channels((mean, variance), 1)
    assert average.shape == deviation.shape == (4, 1, 1)
    assert torch.allclose(average.flatten(), wanted.mean((0, 2, 3)), atol=1e-6)
    assert torch.allclose(deviation.flatten(), wanted.transpose(0, 1).flatten(1).std(1, correction=0), atol=1e-6)


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_channels_may_be_in_any_dimension(dim: int) -> None:
    values = torch.randn(50, 3, 4, 5, dtype=torch.double) + torch.arange(5)
    moments = values.mean(0), values.var(0, correction=0)
    for got, wanted in zip(of_channels(moments, dim), ("mean", "std"), strict=True):
        rows = values.movedim(dim, 0).flatten(1)
        expected = rows.mean(1) if wanted == "mean" else rows.std(1, correction=0)
        assert torch.allclose(got.flatten(), expected)
        assert torch.broadcast_shapes(got.shape, values[0].shape) == values[0].shape
    flat = torch.randn(50, 3, dtype=torch.double)
    average, deviation = of_channels((flat.mean(0), flat.var(0, correction=0)), 1)
    assert torch.allclose(deviation, flat.std(0, correction=0))
    assert torch.allclose(average, flat.mean(0))


def test_noise_has_the_mean_and_the_variance_of_each_channel() -> None:
    case = captured("in_place")
    (skip,) = case.skips
    (name,) = skip.branch
    mean, variance = torch.randn(4, 8, 8, dtype=torch.double), torch.rand(4, 8, 8, dtype=torch.double)
    new = noise(case.program, {name: (mean, variance)}, 0)
    value = torch.randn(2000, 4, 8, 8)
    drawn = new((skip.merge, name), part_of(case.program, value))(value)
    average, deviation = of_channels((mean, variance), 1)
    rows = drawn.double().transpose(0, 1).flatten(1)  # 128,000 numbers a channel
    assert torch.allclose(rows.mean(1), average.flatten(), atol=0.02)
    assert torch.allclose(rows.std(1), deviation.flatten(), rtol=0.02)
    assert torch.equal(drawn, new((skip.merge, name), part_of(case.program, value))(value))
    assert not torch.equal(drawn, new(("another", name), part_of(case.program, value))(value))


def test_shuffled_samples_are_all_another_ones() -> None:
    case = captured("in_place")
    (skip,) = case.skips
    shifts = set()
    for size in range(2, 9):
        for seed in range(10):
            value = torch.arange(size).float()[:, None, None, None].expand(-1, 4, 8, 8)
            moved = shuffle(case.program, seed)((skip.merge, skip.branch[0]), part_of(case.program, value))(value)
            places = moved[:, 0, 0, 0].int().tolist()
            assert sorted(places) == list(range(size))
            assert all(place != sample for sample, place in enumerate(places))
            shifts.add((size, places[0]))
    assert len(shifts) > 2 * 7


places = nn.Sequential(linear(5, 5), nn.ReLU(), linear(5, 5))
CHANNELS = [
    ("conv", lambda: Net(lambda net, x: x + net.b(x), b=nn.Sequential(conv(), conv())), (2, 4, 8, 8), 1),
    ("linear", lambda: Net(lambda net, x: x + net.b(net.a(x)), a=heavy(), b=nn.Dropout()), (2, 5, 8), 2),
    ("attention", lambda: Transformer("parallel"), (2, 5, 8), 2),
    (  # ConvNeXt: channels last in the branch, and back
        "permuted",
        lambda: Net(
            lambda net, x: x + net.b(net.a(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2), a=conv(), b=linear(4, 4)
        ),
        (2, 4, 8, 8),
        1,
    ),
    (  # an MLP-mixer's mixing over places: what a layer makes are places
        "transposed",
        lambda: Net(lambda net, x: x + net.a(x.transpose(1, 2)).transpose(1, 2), a=places),
        (2, 5, 8),
        1,
    ),
    (  # windows, as Swin's: linear layers of (windows, places, channels), put together again
        "windows",
        lambda: Net(
            lambda net, x: x + net.b(x.reshape(4, 4, 8)).reshape(2, 2, 2, 2, 8).transpose(1, 2).reshape(x.shape),
            b=heavy(),
        ),
        (2, 8, 8),
        2,
    ),
    ("vector", lambda: Net(lambda net, x: x + net.b(x), b=nn.Sequential(linear(), nn.ReLU(), linear())), (2, 8), 1),
    ("norm", lambda: Net(lambda net, x: x + net.b(net.a(x)), a=linear(), b=nn.LayerNorm(8)), (2, 5, 8), 2),
]


@pytest.mark.parametrize(("build", "shape", "dim"), [row[1:] for row in CHANNELS], ids=[row[0] for row in CHANNELS])
def test_which_dimension_is_the_channels(build: type, shape: tuple[int, ...], dim: int) -> None:
    program = skiplab.capture(build(), (torch.randn(shape),))
    (skip,) = skiplab.find(program)
    for name in skip.branch:
        assert program.layouts[program.by_name[name].index].channels == dim


def test_values_whose_first_dimension_is_not_the_samples() -> None:
    """Windows of a picture, as Swin's, one after the other."""
    model = Net(lambda net, x: (w := x.reshape(-1, 8)) + net.b(w), b=heavy())
    program = skiplab.capture(model, (torch.randn(3, 2, 8),))
    skips = skiplab.find(program)
    x = torch.randn(3, 2, 8)
    for kind in ("mean", "noise", "shuffle"):
        with pytest.raises(UsageError, match=r"has shape \(6, 8\) for 3 samples: .*; delete it instead"):
            lesion(program, skips, [(x, None)], lambda output, _: output.mean(), kinds=[kind])


@pytest.mark.parametrize("combine", ["add", "concat"])
def test_a_shortcut_is_replaced_by_what_a_branch_would_be(combine: str) -> None:
    """By hand: what the merge gets from the branch stays, and beside it is the shortcut's mean, noise like it, or it
    of another sample."""
    torch.manual_seed(0)
    join = torch.add if combine == "add" else lambda a, b: torch.cat((a, b), -1)
    model = Net(lambda net, x: join(h := net.a(x), net.b(h)), a=linear(), b=heavy()).eval()
    x = torch.randn(400, 8)
    program = skiplab.capture(model, (x,))
    outputs: list[Tensor] = []

    def loss(output: Tensor, _: None) -> Tensor:
        outputs.append(output.detach())
        return output.mean(1)

    kinds: list[Kind] = ["shortcut-mean", "shortcut-noise", "shortcut-shuffle"]
    table = lesion(program, skiplab.find(program), [(x, None)], loss, kinds=kinds)
    assert list(table["kind"]) == kinds
    with torch.no_grad():
        shortcut = model.a(x)  # type: ignore[operator]
        branch = model.b(shortcut)  # type: ignore[operator]
    mean, noise_, other = ((out - branch) if combine == "add" else out[:, :8] for out in outputs[:3])
    assert combine == "add" or all(torch.equal(out[:, 8:], branch) for out in outputs)
    torch.testing.assert_close(mean, shortcut.mean(0).expand_as(shortcut))
    assert torch.allclose(noise_.mean(0), shortcut.mean(0), atol=0.15)
    assert torch.allclose(noise_.std(0), shortcut.std(0), rtol=0.15)
    centred = (noise_ - noise_.mean(0)) * (shortcut - shortcut.mean(0))
    assert (centred.mean(0).abs() < 0.3 * shortcut.var(0)).all()  # it knows nothing of the sample
    shifts = [n for n in range(400) if torch.allclose(other, shortcut.roll(n, 0), atol=1e-6)]
    assert len(shifts) == 1
    assert shifts != [0]
