from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from skiplab import models
from skiplab.errors import UsageError
from skiplab.models import PadShortcut, ResNet, resnet
from skiplab.models.resnet import Options

NAMED = [name for name in models.__all__ if name.startswith("resnet") and name != "resnet"]


def with_statistics(net: ResNet) -> ResNet:
    """Gives every normalisation values that a mistake about it would show up with."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.running_var):
                assert tensor is not None
                tensor.uniform_(0.5, 1.5)
            for tensor in (module.bias.data, module.running_mean):
                assert tensor is not None
                tensor.normal_(0, 0.2)
    return net


@pytest.mark.parametrize("depth", [18, 34, 50])
def test_equals_torchvision(depth: int) -> None:
    reference = getattr(pytest.importorskip("torchvision").models, f"resnet{depth}")()
    net = resnet(depth, "imagenet")
    net.load_state_dict(with_statistics(reference).state_dict(), strict=True)
    x = torch.randn(2, 3, 40, 36)
    with torch.no_grad():
        assert torch.equal(net(x), reference(x))  # in training mode, on batch statistics
        assert torch.equal(net.eval()(x), reference.eval()(x))
    statistics = dict(net.named_buffers())
    assert all(torch.equal(statistics[name], buffer) for name, buffer in reference.named_buffers())


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_has_torchvisions_names_and_shapes_in_its_order(depth: int) -> None:
    torchvision = pytest.importorskip("torchvision")
    with torch.device("meta"):
        reference, net = getattr(torchvision.models, f"resnet{depth}")(), resnet(depth, "imagenet")
    shapes = [[(k, v.shape) for k, v in model.state_dict().items()] for model in (net, reference)]
    assert shapes[0] == shapes[1]


def test_draws_torchvisions_weights_from_the_same_seed() -> None:
    torchvision = pytest.importorskip("torchvision")
    with torch.random.fork_rng():
        torch.manual_seed(3)
        reference = torchvision.models.resnet18().state_dict()
        torch.manual_seed(3)
        ours = resnet(18, "imagenet").state_dict()
    assert all(torch.equal(ours[name], reference[name]) for name in reference)


@pytest.mark.parametrize("name", NAMED)
def test_every_constructor_says_what_it_takes(name: str) -> None:
    with torch.device("meta"):
        net = getattr(models, name)()
        out = net(torch.empty(2, *net.example_input_shape))
    assert net.example_input_shape == ((3, 224, 224) if net.fc.out_features == 1000 else (3, 32, 32))
    assert out.shape == (2, net.fc.out_features)
    assert weight_layers(net) == int(name.removeprefix("resnet"))


def weight_layers(net: nn.Module) -> int:
    """The convolutions and linear layers that are not projections."""
    kinds = (nn.Conv2d, nn.Linear)
    return sum(isinstance(m, kinds) and "downsample" not in name for name, m in net.named_modules())


def closed_form(n: int, w: int, classes: int, skip: str | None) -> int:
    """Parameters of the CIFAR form: convolutions, two values a normalised channel, and the linear layer."""
    convolutions = 9 * 3 * w
    for stage in range(3):
        c = w * 2**stage
        convolutions += (2 * n - 1) * 9 * c * c + 9 * c * (c if stage == 0 else c // 2)
    normalised = w + 2 * n * (w + 2 * w + 4 * w)
    projected = [(w, 2 * w), (2 * w, 4 * w)] if skip in ("B", "C") else []
    if skip == "C":
        projected += [(w, w)] + [(c, c) for c in (w, 2 * w, 4 * w) for _ in range(n - 1)]
    projections = sum(a * b + 2 * b for a, b in projected)
    return convolutions + 2 * normalised + projections + 4 * w * classes + classes


@pytest.mark.parametrize("skip", ["A", "B", "C", None])
@pytest.mark.parametrize(("depth", "width"), [(20, 16), (110, 16), (20, 5)])
def test_parameter_count(depth: int, width: int, skip: Any) -> None:
    with torch.device("meta"):
        net = resnet(depth, skip=skip, width=width, num_classes=7)
    assert sum(p.numel() for p in net.parameters()) == closed_form((depth - 2) // 6, width, 7, skip)


@pytest.mark.parametrize(
    ("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7), (1202, 19.4)]
)
def test_parameters_of_the_papers_table_6(depth: int, millions: float) -> None:
    with torch.device("meta"):
        net = resnet(depth)
    digits = 2 if millions < 1 else 1
    assert round(sum(p.numel() for p in net.parameters()) / 1e6, digits) == millions


def by_hand(net: ResNet, x: Tensor, span: int, skip: bool, pre: bool) -> Tensor:
    """The CIFAR form with option A or none, from its parameters alone, written as the papers' figures read."""
    p = net.state_dict()

    def norm(x: Tensor, name: str) -> Tensor:
        mean, var, weight, bias = (
            p[f"{name}.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / torch.sqrt(var + 1e-5) * weight + bias

    x = F.conv2d(x, p["conv1.weight"], padding=1)
    x = x if pre else norm(x, "bn1").relu()
    for stage in (1, 2, 3):
        block = 0
        while f"layer{stage}.{block}.conv1.weight" in p:
            name, y = f"layer{stage}.{block}", x
            stride = 2 if stage > 1 and block == 0 else 1
            for i in range(1, span + 1):
                y = norm(y, f"{name}.bn{i}").relu() if pre else y
                y = F.conv2d(y, p[f"{name}.conv{i}.weight"], stride=stride if i == 1 else 1, padding=1)
                y = y if pre else norm(y, f"{name}.bn{i}")
                y = y.relu() if not pre and i < span else y
            if skip:
                thin = x[:, :, ::stride, ::stride]
                missing = torch.zeros(len(y), y.shape[1] - x.shape[1], *y.shape[2:], dtype=y.dtype)
                y = y + torch.cat([thin, missing], dim=1)
            x, block = (y if pre else y.relu()), block + 1
    x = norm(x, "bn_last").relu() if pre else x
    return x.mean(dim=(2, 3)) @ p["fc.weight"].T + p["fc.bias"]


@pytest.mark.parametrize("pre", [False, True])
@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize(("depth", "span"), [(14, 1), (14, 2), (20, 3)])
def test_equals_the_papers_formulas(depth: int, span: Any, skip: bool, pre: bool) -> None:
    options = Options(span=span, skip="A" if skip else None, placement="pre" if pre else "post", width=4)
    net = with_statistics(resnet(depth, **options)).double().eval()
    x = torch.randn(2, 3, 9, 10, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(net(x), by_hand(net, x, span, skip, pre), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("placement", ["post", "pre"])
def test_the_plain_twin_shares_the_weights_of_option_a(placement: Any) -> None:
    plain, residual = (resnet(20, skip=skip, placement=placement) for skip in (None, "A"))
    plain.load_state_dict(residual.state_dict(), strict=True)
    residual.load_state_dict(plain.state_dict(), strict=True)


class CountRelu(TorchFunctionMode):
    count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func in (F.relu, torch.relu, Tensor.relu)
        assert func not in (F.relu_, torch.relu_, Tensor.relu_)
        assert not (kwargs or {}).get("inplace")
        return func(*args, **kwargs or {})


@pytest.mark.parametrize("placement", ["post", "pre"])
def test_resnet_110_has_109_relus_and_none_of_them_in_place(placement: Any) -> None:
    with torch.device("meta"), CountRelu() as relus:
        resnet(110, placement=placement)(torch.empty(1, 3, 32, 32))
    assert relus.count == 109


def test_nothing_nonlinear_lies_on_the_pre_activation_shortcuts() -> None:
    """With silent branches, what reaches the last norm is linear in the input."""
    net = resnet(20, placement="pre", skip="B").eval()
    for name, parameter in net.named_parameters():
        if name.endswith("conv2.weight"):
            nn.init.zeros_(parameter)
    reached: list[Tensor] = []
    assert net.bn_last is not None
    net.bn_last.register_forward_pre_hook(lambda _, inputs: reached.append(inputs[0]))
    x, y = torch.randn(2, 1, 3, 16, 16)
    with torch.no_grad():
        for value in (x, y, x - 3 * y):
            net(value)
    torch.testing.assert_close(reached[2], reached[0] - 3 * reached[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("skip", "count"), [("A", 0), ("B", 2), ("C", 9), (None, 0)])
@pytest.mark.parametrize("placement", ["post", "pre"])
def test_options_place_the_projections(skip: Any, count: int, placement: Any) -> None:
    net = resnet(20, skip=skip, placement=placement)
    shortcuts = [m for name, m in net.named_modules() if name.endswith("downsample")]
    projections = [m for m in shortcuts if isinstance(m, nn.Sequential)]
    assert len(projections) == count
    assert all(len(m) == (2 if placement == "post" else 1) for m in projections)
    assert sum(isinstance(m, PadShortcut) for m in shortcuts) == (2 if skip == "A" else 0)


@pytest.mark.parametrize("placement", ["post", "pre"])
@pytest.mark.parametrize("skip", ["A", "B", "C", None])
@pytest.mark.parametrize("depth", [18, 50])
def test_the_imagenet_form_takes_the_same_options(depth: int, skip: Any, placement: Any) -> None:
    with torch.device("meta"):
        net = resnet(depth, "imagenet", skip=skip, placement=placement, width=8, in_channels=1, num_classes=5)
        assert net(torch.empty(2, 1, 64, 64)).shape == (2, 5)


@given(st.integers(1, 12), st.integers(1, 3))
def test_span_arithmetic(n: int, span: Any) -> None:
    depth = 6 * n + 2
    with torch.device("meta"):
        if 2 * n % span:
            with pytest.raises(UsageError, match=rf"span={span}.*\[1, 2\]"):
                resnet(depth, span=span, width=1)
            return
        net = resnet(depth, span=span, width=1)
    assert weight_layers(net) == depth
    blocks = [len(net.get_submodule(stage)) for stage in net.stages]  # type: ignore[arg-type]
    assert [count * span for count in blocks] == [2 * n] * 3


@given(st.integers(-3, 60))
def test_depths_that_are_not_6n_plus_2_name_ones_that_are(depth: int) -> None:
    with torch.device("meta"):
        if depth >= 8 and depth % 6 == 2:
            assert weight_layers(resnet(depth, width=1)) == depth
            return
        with pytest.raises(UsageError, match=r"such as (\d+) or (\d+)") as raised:
            resnet(depth)
        below, above = (int(word) for word in str(raised.value).split() if word.isdigit() and word not in "2")
        assert weight_layers(resnet(below, width=1)) == below
        assert above == below + 6


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((19, "imagenet"), {}, "18, 34, 50, 101, 152"),
        ((18, "imagenet"), {"span": 2}, "leave it out"),
        ((20, "tiny"), {}, "'cifar' or 'imagenet'"),
        ((20,), {"skip": "D"}, r"skip='D'.*'A', 'B', 'C', None"),
        ((20,), {"placement": "mid"}, "placement='mid'"),
        ((20,), {"width": 0}, "width=0"),
        ((20,), {"num_classes": -1}, "num_classes=-1"),
        ((20,), {"span": 4}, r"span=4.*\[1, 2, 3\]"),
        ((20,), {"drop": 0.1}, r"\['drop'\].*in_channels"),
        ((18, "imagenet"), {"widening": 2}, "leave it out"),
        ((20,), {"widening": 0}, "widening=0"),
        ((20,), {"widening": 1.5}, "widening=1.5: give a whole number"),
        ((20,), {"span": 2.0}, "span=2.0: give a whole number"),
        ((20,), {"norm": "layer"}, "norm='layer'.*'batch', 'fixup', None"),
        ((20,), {"dropout": 1.0}, "dropout=1.0"),
        ((20,), {"drop_path": -0.1}, "drop_path=-0.1"),
        ((20,), {"combine": "mul"}, "combine='mul'.*'add'.*'rezero'"),
        ((20,), {"combine": "half", "drop_path": 0.5}, "drop_path exclude each other"),
        ((20,), {"combine": "half", "skip": None}, "skip=None exclude each other"),
        ((20,), {"drop_path": 0.5, "skip": None}, "would cut the network"),
        ((20,), {"norm": "fixup", "skip": None}, "needs shortcuts"),
        ((20,), {"last": "none"}, "only 'pre' and 'relu-only'"),
        ((20,), {"last": "nothing", "placement": "pre"}, "last='nothing'"),
    ],
)
def test_requests_that_make_no_sense(arguments: Any, options: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        resnet(*arguments, **options)


def test_initial_weights_are_he_normal() -> None:
    net = resnet(20, width=64)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            expected = (2 / (9 * module.out_channels)) ** 0.5
            assert module.weight.std().item() == pytest.approx(expected, rel=0.08)
        if isinstance(module, nn.BatchNorm2d):
            assert torch.all(module.weight == 1)
            assert torch.all(module.bias == 0)
