"""Which dimension of a value is samples, channels and positions, against layouts written by hand."""

import math
from collections.abc import Callable, Iterable, Sequence

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.fx import Graph

import skiplab
from case import timm, torchvision
from networks import Net, conv, heavy, linear
from skiplab.graph.axes import Axis
from skiplab.graph.layout import Layout, layouts
from skiplab.graph.ops import Op
from skiplab.graph.program import Program
from skiplab.models import unet

aten = torch.ops.aten
Where = tuple[int | None, int | None, tuple[int, ...]]
IMAGE: Where = (0, 1, (2, 3))
IMAGE_LAST: Where = (0, 3, (1, 2))
SEQUENCE: Where = (0, 2, (1,))
TIME_FIRST: Where = (1, 2, (0,))
VIDEO: Where = (0, 4, (1, 2, 3))


def where(layout: Layout) -> Where:
    return layout.samples, layout.channels, layout.positions


def found(program: Program, names: Iterable[str]) -> list[Where]:
    return [where(program.layouts[program.by_name[name].index]) for name in names]


def merges(program: Program) -> list[str]:
    return list(dict.fromkeys(skip.merge for skip in skiplab.find(program).in_graph()))


def captured(model: nn.Module, *shape: int) -> Program:
    torch.manual_seed(0)
    return skiplab.capture(model.eval(), (torch.randn(shape),))


def of(program: Program, target: str) -> list[Op]:
    return [op for op in program.ops if op.target == target]


# Whole networks


class DividedAttention(nn.Module):
    """Space-time attention (Bertasius et al. 2021) on (B, T, H, W, C): along time, then within each frame."""

    def __init__(self) -> None:
        super().__init__()
        self.time, self.space = (nn.MultiheadAttention(8, 2, batch_first=True) for _ in range(2))
        self.norm, self.mlp = nn.LayerNorm(8), heavy()

    def forward(self, x: Tensor) -> Tensor:
        b, t, h, w, c = x.shape
        y = x.permute(0, 2, 3, 1, 4).reshape(b * h * w, t, c)
        x = x + self.time(y, y, y, need_weights=False)[0].reshape(b, h, w, t, c).permute(0, 3, 1, 2, 4)
        y = self.norm(x).reshape(b * t, h * w, c)
        x = x + self.space(y, y, y, need_weights=False)[0].reshape(x.shape)
        return x + self.mlp(x)


class Residual(nn.Module):
    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: Tensor) -> Tensor:
        return x + self.cell(x)[0]


def encoder(batch_first: bool) -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=batch_first)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


SWIN = {"img_size": 64, "window_size": 4, "depths": (2, 2), "num_heads": (3, 6)}
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], Sequence[Where]]] = {
    # timm adds the attention to an image and the MLP to a sequence of its pixels.
    "timm_swin": (timm("swin_tiny_patch4_window7_224", **SWIN), (2, 3, 64, 64), 4 * [IMAGE_LAST, SEQUENCE]),
    "convnext_atto": (timm("convnext_atto"), (2, 3, 64, 64), 12 * [IMAGE]),
    "convnext_tiny": (torchvision("convnext_tiny"), (2, 3, 64, 64), 18 * [IMAGE]),
    # Depths 2, 2, 6, 2. Blocks add to images; the last one of stages 2 to 4 concatenates groups of channels, adds its
    # attention to a sequence and its MLP to an image.
    "edgenext": (
        timm("edgenext_xx_small"),
        (2, 3, 64, 64),
        2 * [IMAGE] + [w for blocks in (1, 5, 1) for w in (*blocks * [IMAGE], IMAGE, SEQUENCE, IMAGE)],
    ),
    "mixer": (timm("resmlp_12_224", img_size=64), (2, 3, 64, 64), 12 * [SEQUENCE]),
    "unet": (lambda: unet(depth=2, width=4), (2, 1, 32, 32), 2 * [IMAGE]),
    "video": (DividedAttention, (2, 3, 4, 4, 8), 3 * [VIDEO]),
    "encoder_batch_first": (lambda: encoder(True), (3, 5, 8), 4 * [SEQUENCE]),
    "encoder_time_first": (lambda: encoder(False), (5, 3, 8), 4 * [TIME_FIRST]),
    "lstm_batch_first": (lambda: Residual(nn.LSTM(8, 8, batch_first=True)), (3, 5, 8), [SEQUENCE]),
    "lstm_time_first": (lambda: Residual(nn.LSTM(8, 8)), (5, 3, 8), [TIME_FIRST]),
    "gru_time_first": (lambda: Residual(nn.GRU(8, 8)), (5, 3, 8), [TIME_FIRST]),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_merges_of_a_network(name: str) -> None:
    build, shape, expected = NETWORKS[name]
    program = captured(build(), *shape)
    sums = [name for name in merges(program) if program.by_name[name].kind == "merge"]
    assert found(program, sums) == [*expected]
    assert program.layouts[0].samples == (1 if "time_first" in name else 0)


def test_windows_of_an_image_lie_in_the_dimension_of_its_samples() -> None:
    """16 × 16 pixels in windows of 4 × 4, one image after the other; then 8 × 8 pixels of twice the channels."""
    program = captured(NETWORKS["timm_swin"][0](), 2, 3, 64, 64)
    projections = [op for op in of(program, "linear") if op.module.endswith("attn.qkv")]
    inside = [program.layouts[op.index] for op in projections]
    assert [where(each) for each in inside] == 4 * [SEQUENCE]
    assert [each.folded for each in inside] == 2 * [(1, 16)] + 2 * [(1, 4)]
    assert [each.places for each in inside] == 2 * [16 * 16] + 2 * [8 * 8]


def test_inside_a_branch_the_channels_are_last() -> None:
    program = captured(torchvision("convnext_tiny")(), 2, 3, 64, 64)
    assert {where(program.layouts[op.index]) for op in of(program, "linear")[:-1]} == {IMAGE_LAST}
    assert where(program.layouts[of(program, "linear")[-1].index]) == (0, 1, ())


def test_folded_steps_of_a_sequence_come_outside_of_the_samples() -> None:
    """Attention's output layer gets (T · N, C)."""
    program = captured(encoder(False), 5, 3, 8)
    layout = next(program.layouts[op.index] for op in program.ops if op.target == "reshape")
    assert (where(layout), layout.folded) == ((0, 1, ()), (None, 1))
    value = torch.arange(7 * 3).reshape(7, 3, 1).expand(7, 3, 8)
    assert torch.equal(layout.by_sample(value.reshape(21, 8), 3), value.transpose(0, 1).reshape(3, 56))


def test_a_fixed_batch_is_where_operators_have_it() -> None:
    fixed = Net(lambda net, x: net.of(x.reshape(5, 3, 8)), of=encoder(False))
    program = captured(fixed, 5, 3, 8)
    assert not program.dynamic_batch
    assert found(program, merges(program)) == 4 * [TIME_FIRST]


@pytest.mark.parametrize("batch_first", [True, False])
def test_first_states_have_the_samples_of_the_sequence(batch_first: bool) -> None:
    class Started(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = nn.GRU(8, 6, 2, batch_first=batch_first)

        def forward(self, x: Tensor, state: Tensor) -> Tensor:
            return self.cell(x, state)[0]

    program = skiplab.capture(
        Started(), (torch.randn(*((3, 5, 8) if batch_first else (5, 3, 8))), torch.randn(2, 3, 6))
    )
    layouts_ = [program.layouts[program.by_name[name].index] for name in program.inputs]
    assert [where(each) for each in layouts_] == [SEQUENCE if batch_first else TIME_FIRST, TIME_FIRST]


def test_inputs_with_batch_sizes_of_their_own() -> None:
    """Nothing says that as many of them come, as with CLIP's texts and images."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = linear(), heavy()

        def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            return self.a(x), self.b(y)

    program = skiplab.capture(Two(), (torch.randn(2, 5, 8), torch.randn(2, 3, 8)))
    assert {where(layout) for layout in program.layouts} == {SEQUENCE}


def test_token_ids_have_no_channels() -> None:
    model = Net(lambda net, x: net.b(net.a(x)), a=nn.Embedding(9, 8), b=heavy()).eval()
    program = skiplab.capture(model, (torch.arange(10).reshape(2, 5) % 9,))
    assert where(program.layouts[0]) == (0, None, (1,))
    assert where(program.layouts[-1]) == SEQUENCE


def test_attention_has_heads_and_positions_count_once() -> None:
    """Scores (N, heads, T, T) are 5 positions, not 25; queries (N, heads, T, C / heads)."""

    def attend(net: Net, x: Tensor) -> Tensor:
        q, k, v = (net.qkv(x).reshape(-1, 5, 3, 2, 4).permute(2, 0, 3, 1, 4)).unbind(0)  # type: ignore[operator]
        return ((q @ k.transpose(-2, -1)).softmax(-1) @ v).transpose(1, 2).reshape(x.shape)

    program = captured(Net(attend, qkv=linear(8, 24)), 3, 5, 8)
    scores, mixed = (program.layouts[op.index] for op in of(program, "matmul"))
    assert where(scores) == (0, 1, (2, 3))
    assert (scores.places, mixed.places) == (5, 5)
    assert where(mixed) == (0, 3, (2,))
    assert where(program.layouts[-1]) == SEQUENCE


# One rule in several spellings

TO_LAST: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "permute": (lambda x: x.permute(0, 2, 3, 1), lambda x: x.permute(0, 3, 1, 2)),
    "transpose": (lambda x: x.transpose(1, 2).transpose(2, 3), lambda x: x.transpose(2, 3).transpose(1, 2)),
    "movedim": (lambda x: x.movedim(1, -1), lambda x: torch.moveaxis(x, -1, 1)),
    "flatten": (
        lambda x: x.flatten(2).swapaxes(1, 2).unflatten(1, (8, 8)),
        lambda x: x.flatten(1, 2).mT.unflatten(2, (8, 8)),
    ),
    "einsum": (lambda x: torch.einsum("nchw->nhwc", x), lambda x: torch.einsum("...c->c...", x).transpose(0, 1)),
    "stack": (
        lambda x: torch.stack(x.unbind(1), -1),
        lambda x: torch.stack([x[..., i] for i in range(4)], 1),
    ),
}


@pytest.mark.parametrize("spelling", TO_LAST)
def test_channels_moved_last_and_back(spelling: str) -> None:
    there, back = TO_LAST[spelling]
    program = captured(Net(lambda net, x: x + back(net.b(there(net.a(x)))), a=conv(), b=linear(4, 4)), 2, 4, 8, 8)
    (layer,) = of(program, "linear")
    assert found(program, [layer.name, program.ops[-1].name]) == [IMAGE_LAST, IMAGE]


WINDOWS: dict[str, Callable[[Tensor], Tensor]] = {
    "view": lambda x: x.view(-1, 2, 4, 2, 4, 4).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, 4),
    "unflatten": lambda x: x.unflatten(2, (2, 4)).unflatten(1, (2, 4)).transpose(2, 3).flatten(0, 2).flatten(1, 2),
    "einops": lambda x: x.reshape(-1, 2, 4, 2, 4, 4).movedim(3, 2).reshape(-1, 4, 4, 4).reshape(-1, 16, 4),
    "unfold": lambda x: x.unfold(1, 4, 4).unfold(2, 4, 4).movedim(3, -1).reshape(-1, 16, 4),
}


@pytest.mark.parametrize("spelling", WINDOWS)
def test_windows(spelling: str) -> None:
    windows = WINDOWS[spelling]
    program = captured(Net(lambda net, x: net.b(windows(net.a(x))), a=linear(4, 4), b=linear(4, 4)), 2, 8, 8, 4)
    layout = program.layouts[-1]
    assert (where(layout), layout.folded, layout.places) == (SEQUENCE, (1, 4), 64)
    value = torch.arange(3.0).reshape(3, 1, 1, 1).expand(3, 8, 8, 4)
    assert torch.equal(layout.by_sample(windows(value), 3), value.reshape(3, -1))


LAYERS: dict[str, Callable[[Net, Tensor], Tensor]] = {
    "linear": lambda net, x: net.a(x),  # type: ignore[operator]
    "matmul": lambda net, x: x @ net.a.weight,  # type: ignore[operator]
    "einsum": lambda net, x: torch.einsum("btc,dc->btd", x, net.a.weight),  # type: ignore[arg-type]
    "addmm": lambda net, x: torch.addmm(net.a.bias, x.reshape(-1, 8), net.a.weight).reshape(x.shape),  # type: ignore
    "conv": lambda net, x: F.conv1d(x.mT, net.a.weight[:, :, None]).mT,  # type: ignore[index]
}


@pytest.mark.parametrize("spelling", LAYERS)
def test_a_layer_decides_the_input_that_it_reads(spelling: str) -> None:
    program = captured(Net(lambda net, x: x + LAYERS[spelling](net, x).relu(), a=linear()), 2, 5, 8)
    assert found(program, [program.ops[0].name, program.ops[-1].name]) == [SEQUENCE, SEQUENCE]


MIXED: dict[str, Callable[[Net, Tensor], Tensor]] = {
    "linear": lambda net, x: net.a(x.mT).mT,  # type: ignore[operator]
    "matmul": lambda net, x: net.a.weight @ x,  # type: ignore[operator]
    "conv": lambda net, x: F.conv1d(x, net.a.weight[:, :, None]),  # type: ignore[index]
}


@pytest.mark.parametrize("spelling", MIXED)
def test_a_layer_that_mixes_positions_leaves_the_channels_where_they_are(spelling: str) -> None:
    """An MLP-mixer's, on patches that a layer has made; as many of them come out as go in, or fewer."""
    for places in (5, 3):
        net = Net(lambda net, x: MIXED[spelling](net, net.b(x)), a=linear(5, places), b=nn.Linear(8, 6))
        program = captured(net, 2, 5, 8)
        assert where(program.layouts[-1]) == SEQUENCE


TURNED: dict[str, Callable[[Tensor], Tensor]] = {
    "transpose": lambda x: x.transpose(0, 1),
    "permute": lambda x: x.permute(1, 0, 2),
    "movedim": lambda x: x.movedim(1, 0),
    "stack": lambda x: torch.stack(x.unbind(1)),
    "cat": lambda x: torch.cat([x[:, i][None] for i in range(5)]),
}


@pytest.mark.parametrize("spelling", TURNED)
def test_time_put_first(spelling: str) -> None:
    program = captured(Net(lambda net, x: (y := TURNED[spelling](x)) + net.f(y), f=heavy()), 3, 5, 8)
    assert where(program.layouts[-1]) == TIME_FIRST
    assert where(program.layouts[0]) == SEQUENCE


JOINED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cat": lambda x, y: torch.cat((x, y), 1),
    "stack": lambda x, y: torch.stack((x, y), 2).flatten(1, 2),
    "pad": lambda x, y: F.pad(x, (0, 0, 0, 0, 0, 4)) + F.pad(y, (0, 0, 0, 0, 4, 0)),
    "shuffle": lambda x, y: torch.cat((x, y), 1).unflatten(1, (2, 4)).transpose(1, 2).flatten(1, 2),
}


@pytest.mark.parametrize("spelling", JOINED)
def test_channels_side_by_side(spelling: str) -> None:
    net = Net(lambda net, x: JOINED[spelling](net.a(x), net.b(x)), a=conv(), b=conv())
    assert where(captured(net, 2, 4, 8, 8).layouts[-1]) == IMAGE


def test_pixels_that_become_channels_and_back() -> None:
    """A patch embedding in plain operators, and an upsampling."""
    patches = Net(
        lambda net, x: net.a(x.reshape(-1, 3, 2, 4, 2, 4).permute(0, 2, 4, 3, 5, 1).reshape(-1, 4, 48)), a=linear(48, 8)
    )
    program = captured(patches, 2, 3, 8, 8)
    assert found(program, [program.ops[0].name, program.ops[-1].name]) == [IMAGE, SEQUENCE]
    for grow in (
        lambda x: F.pixel_shuffle(x, 2),
        lambda x: x.reshape(-1, 1, 2, 2, 8, 8).permute(0, 1, 4, 2, 5, 3).reshape(-1, 1, 16, 16),
    ):
        program = captured(Net(lambda net, x, grow=grow: net.b(grow(net.a(x))), a=conv(), b=conv(1, 4)), 2, 4, 8, 8)
        assert where(program.layouts[-1]) == IMAGE


def test_batches_one_after_the_other() -> None:
    program = captured(Net(lambda net, x: net.a(torch.cat((x, -x))), a=linear()), 3, 8)
    assert (where(program.layouts[-1]), program.layouts[-1].folded) == ((0, 1, ()), (2, 1))


# Chains of views, against a tensor whose entries are their own coordinates

SIZES = (4, 2, 8, 2)  # of samples, channels and positions; powers of two, so that all reshapes keep axes whole
Step = tuple[str, int, int]


@st.composite
def chains(draw: st.DrawFn) -> list[tuple[object, tuple]]:
    """Operators with their arguments, each a permutation or a reshape of what the one before gives."""
    shape, steps = list(SIZES), []
    for _ in range(draw(st.integers(1, 6))):
        if draw(st.booleans()):
            order = draw(st.permutations(range(len(shape))))
            shape = [shape[i] for i in order]
            steps.append((aten.permute.default, (order,)))
            continue
        rest, shape = math.prod(SIZES), []
        while rest > 1:
            shape.append(draw(st.sampled_from([n for n in (2, 4, 8, 16) if rest % n == 0])))
            rest //= shape[-1]
        steps.append((aten.reshape.default, (list(shape),)))
    return steps


def program_of(steps: list[tuple[object, tuple]]) -> tuple[Layout, Callable[[Tensor], Tensor]]:
    """The layout of what the steps make of a convolution's result; and the steps as a function."""
    graph, ops = Graph(), []

    def add(node, value: Tensor, target: str) -> None:
        node.meta["val"] = value
        if target:
            ops.append(Op(len(ops), node.name, target, "other", (), "", None, tuple(value.shape)))

    x, weight, value = graph.placeholder("x"), graph.placeholder("weight"), torch.zeros(SIZES)
    add(x, value, "input")
    add(weight, torch.zeros(2, 2, 1, 1), "")
    last = graph.call_function(aten.conv2d.default, (x, weight))
    add(last, value, "conv2d")
    for target, args in steps:
        last, value = graph.call_function(target, (last, *args)), target(value, *args)  # type: ignore[operator, arg-type]
        add(last, value, "view")

    def run(each: Tensor) -> Tensor:
        for target, args in steps:
            each = target(each, *args)  # type: ignore[operator]
        return each

    return layouts(graph, ops)[-1], run


@settings(max_examples=200)
@given(chains())
def test_chains_of_views_against_coordinates(steps: list[tuple[object, tuple]]) -> None:
    layout, run = program_of(steps)
    n, c, h, w = (run(each) for each in torch.meshgrid(*map(torch.arange, SIZES), indexing="ij"))
    along = [
        "".join(name for name, each in zip("nchw", (n, c, h, w), strict=True) if each.diff(dim=dim).any())
        for dim in range(n.ndim)
    ]
    samples = [dim for dim, names in enumerate(along) if "n" in names]
    order = n.movedim(samples[0], 0).flatten(1)[:, 0].unique_consecutive().tolist()
    whole = len(samples) == 1 and order == [0, 1, 2, 3] * (len(order) // 4)
    others = [dim for dim in range(n.ndim) if dim not in samples]
    pure = [dim for dim in others if along[dim] == "c"]
    mixed = [dim for dim in others if "c" in along[dim]]
    channels = (pure or mixed or [None])[-1]
    assert layout.samples == (samples[0] if whole else None)
    assert layout.channels == channels
    assert layout.positions == tuple(dim for dim in others if dim != channels and dim not in pure)
    if layout.samples is not None:
        assert torch.equal(layout.by_sample(n, 4), torch.arange(4)[:, None].expand(4, 32))
        factors = torch.tensor([2.0, 3.0, 5.0, 7.0])
        assert torch.equal((layout.spread(factors, n) * torch.ones(n.shape)), factors[n])


@pytest.mark.parametrize("first", [True, False])
def test_axes_that_are_one_are_known_where_either_is(first: bool) -> None:
    assumed, known = Axis(4), Axis(4)
    assumed.learn("samples", assumed=True)
    known.learn("samples")
    one, other = (assumed, known) if first else (known, assumed)
    one.identify(other)
    assert one.role == other.role == "samples"
    assert not one.is_assumed
    assert not other.is_assumed
