import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import skiplab
from edits import with_statistics
from skiplab import models
from skiplab.edit import remove_shortcut
from skiplab.errors import UsageError
from skiplab.models import DenseNet, densenet

NAMED = [name for name in models.__all__ if re.fullmatch(r"densenet\d+", name)]
LAYERS = {121: (6, 12, 24, 16), 161: (6, 12, 36, 24), 169: (6, 12, 32, 32), 201: (6, 12, 48, 32)}  # Table 1


def parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def narrow_reference(depth: int) -> nn.Module:
    """torchvision's network with few channels, and statistics that a mistake about them would show up with."""
    classes = pytest.importorskip("torchvision").models.densenet.DenseNet
    reference = classes(growth_rate=4, block_config=LAYERS[depth], num_init_features=6, num_classes=7)
    for name, tensor in reference.state_dict().items():
        if "norm" in name and tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5) if "var" in name or "weight" in name else tensor.normal_(0, 0.2)
    return reference


@pytest.mark.parametrize("depth", LAYERS)
def test_equals_torchvision(depth: int) -> None:
    reference, net = narrow_reference(depth), densenet(depth, "imagenet", growth=4, width=6, num_classes=7)
    net.load_state_dict(reference.state_dict(), strict=True)
    x = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        assert torch.equal(net(x), reference(x))  # in training mode, on batch statistics
        assert torch.equal(net.eval()(x), reference.eval()(x))
    statistics = dict(net.named_buffers())
    assert all(torch.equal(statistics[name], buffer) for name, buffer in reference.named_buffers())


@pytest.mark.parametrize("depth", LAYERS)
def test_has_torchvisions_names_and_shapes_in_its_order(depth: int) -> None:
    torchvision = pytest.importorskip("torchvision")
    with torch.device("meta"):
        reference, net = getattr(torchvision.models, f"densenet{depth}")(), getattr(models, f"densenet{depth}")()
    shapes = [[(k, v.shape) for k, v in model.state_dict().items()] for model in (net, reference)]
    assert shapes[0] == shapes[1]


def test_loads_files_with_the_names_that_torchvision_publishes() -> None:
    """norm.1 and conv.2 in layers, which torchvision itself renames before it loads them."""
    state = narrow_reference(121).state_dict()
    old = {re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", name): value for name, value in state.items()}
    assert len(old.keys() - state.keys()) == 58 * (2 * 5 + 2)
    net = densenet(121, "imagenet", growth=4, width=6, num_classes=7)
    net.load_state_dict(old, strict=True)
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    with pytest.raises(RuntimeError, match=r"norm1\.weight"):
        net.load_state_dict({name: value for name, value in old.items() if not name.endswith("norm.1.weight")})


def test_draws_torchvisions_weights_from_the_same_seed() -> None:
    torchvision = pytest.importorskip("torchvision")
    with torch.random.fork_rng():
        torch.manual_seed(3)
        reference = torchvision.models.densenet121().state_dict()
        torch.manual_seed(3)
        ours = models.densenet121().state_dict()
    assert all(torch.equal(ours[name], reference[name]) for name in reference)


@pytest.mark.parametrize("name", NAMED)
def test_every_constructor_says_what_it_takes(name: str) -> None:
    assert {int(each.removeprefix("densenet")) for each in NAMED} == LAYERS.keys()
    with torch.device("meta"):
        net = getattr(models, name)()
        assert net.example_input_shape == (3, 224, 224)
        assert net(torch.empty(2, 3, 224, 224)).shape == (2, 1000)
    assert weight_layers(net) == int(name.removeprefix("densenet"))


def weight_layers(net: nn.Module) -> int:
    return sum(isinstance(module, (nn.Conv2d, nn.Linear)) for module in net.modules())


@pytest.mark.parametrize(
    ("bottleneck", "growth", "depth", "millions"),
    [
        (False, 12, 40, 1.0),
        (False, 12, 100, 7.0),
        (False, 24, 100, 27.2),
        (True, 12, 100, 0.8),
        (True, 24, 250, 15.3),
        (True, 40, 190, 25.6),
    ],
)
def test_parameters_of_the_papers_table_2(bottleneck: bool, growth: int, depth: int, millions: float) -> None:
    with torch.device("meta"):
        net = densenet(depth, bottleneck=bottleneck, growth=growth)
    assert net.example_input_shape == (3, 32, 32)
    assert weight_layers(net) == depth
    assert round(parameters(net) / 1e6, 1) == millions


def closed_form(layers: tuple[int, ...], bottleneck: bool, k: int, stem: int, classes: int, skip: bool) -> int:
    """Parameters without those of the stem: two a normalised channel, and each convolution's in · out · area."""
    count, full, read = 0, stem, stem
    for i, length in enumerate(layers):
        entering = full
        for layer in range(length):
            read = entering + layer * k if skip or layer == 0 else k
            count += 2 * read + (read * 4 * k + 2 * 4 * k + 4 * k * k * 9 if bottleneck else read * k * 9)
        full += length * k
        read = full if skip else k
        if i < len(layers) - 1:
            full = full // 2 if bottleneck else full
            count += 2 * read + read * full
    return count + 2 * read + read * classes + classes


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize(("depth", "bottleneck", "growth"), [(40, False, 12), (22, True, 5), (100, True, 12)])
def test_parameter_count(depth: int, bottleneck: bool, growth: int, skip: bool) -> None:
    with torch.device("meta"):
        net = densenet(depth, bottleneck=bottleneck, growth=growth, width=9, num_classes=7, skip=skip)
    layers = ((depth - 4) // (6 if bottleneck else 3),) * 3
    assert parameters(net) == 9 * 3 * 9 + closed_form(layers, bottleneck, growth, 9, 7, skip)


def test_parameters_that_the_docstring_names() -> None:
    stem = 3 * 64 * 49 + 2 * 64
    assert [stem + closed_form(LAYERS[121], True, 32, 64, 1000, skip) for skip in (True, False)] == [7978856, 2573864]


def by_hand(net: DenseNet, x: Tensor, bottleneck: bool, layers: int) -> Tensor:
    """The CIFAR form from its parameters alone, in which each layer's output is put behind all that was there."""
    p = net.state_dict()

    def activated(x: Tensor, name: str) -> Tensor:
        mean, var, weight, bias = (
            p[f"features.{name}.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return ((x - mean) / torch.sqrt(var + 1e-5) * weight + bias).clamp(min=0)

    x = F.conv2d(x, p["features.conv0.weight"], padding=1)
    for block in (1, 2, 3):
        for i in range(1, layers + 1):
            at = f"denseblock{block}.denselayer{i}"
            new = F.conv2d(
                activated(x, f"{at}.norm1"), p[f"features.{at}.conv1.weight"], padding=0 if bottleneck else 1
            )
            if bottleneck:
                new = F.conv2d(activated(new, f"{at}.norm2"), p[f"features.{at}.conv2.weight"], padding=1)
            x = torch.cat((x, new), 1)
        if block < 3:
            at = f"transition{block}"
            x = F.conv2d(activated(x, f"{at}.norm"), p[f"features.{at}.conv.weight"])
            x = (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4
    return activated(x, "norm4").mean((2, 3)) @ p["classifier.weight"].T + p["classifier.bias"]


@pytest.mark.parametrize("bottleneck", [False, True])
def test_the_cifar_form_by_hand(bottleneck: bool) -> None:
    net = with_statistics(densenet(22 if bottleneck else 13, bottleneck=bottleneck, growth=3, width=5))
    assert isinstance(net, DenseNet)
    x = torch.randn(2, 3, 12, 8, dtype=torch.double)
    with torch.no_grad():
        torch.testing.assert_close(net(x), by_hand(net, x, bottleneck, 3))


@pytest.mark.parametrize("bottleneck", [False, True])
def test_the_twin_is_the_network_with_its_shortcuts_removed(bottleneck: bool) -> None:
    """With the weights of what is left. What is removed leaves zeros, which untrained norms and ReLUs leave zeros."""
    options: dict[str, Any] = {"depth": 22 if bottleneck else 13, "bottleneck": bottleneck, "growth": 3, "width": 5}
    net, twin = densenet(**options).double().eval(), densenet(**options, skip=False).double().eval()
    full = net.state_dict()
    for name, tensor in twin.state_dict().items():
        if "weight" in name and tensor.ndim > 1:
            tensor.copy_(full[name][:, -tensor.shape[1] :])
    x = torch.randn(2, 3, 8, 8, dtype=torch.double)
    program = skiplab.capture(net, (x,))
    edited = remove_shortcut(program, skiplab.find(program).expect(18)).module()
    with torch.no_grad():
        torch.testing.assert_close(twin(x), edited(x))
        assert not torch.allclose(twin(x), net(x))


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((122, "imagenet"), {}, "121, 161, 169, 201"),
        ((121, "imagenet"), {"bottleneck": False}, "leave it out"),
        ((40, "tiny"), {}, "'cifar' or 'imagenet'"),
        ((41,), {}, r"3n \+ 4 weight layers without bottlenecks, such as 40 or 43"),
        ((40, "cifar", True), {"growth": 2}, None),
        ((43, "cifar", True), {}, r"6n \+ 4 weight layers with bottlenecks, such as 40 or 46"),
        ((4,), {}, "such as 7 or 10"),
        ((40,), {"growth": 0}, "growth=0"),
        ((40,), {"skip": None}, "skip=None: choose True or False"),
        ((40,), {"dropout": 0.1}, r"\['dropout'\].*in_channels"),
    ],
)
def test_requests_that_make_no_sense(arguments: Any, options: Any, message: str | None) -> None:
    if message is None:
        assert weight_layers(densenet(*arguments, **options)) == 40
        return
    with pytest.raises(UsageError, match=message):
        densenet(*arguments, **options)
