import pytest
import torch
from torch import Tensor, nn

from skiplab.errors import UsageError
from skiplab.models import SkipConnection, resmlp
from skiplab.models.combine import Scaled

NAMES = {  # of timm's block, in ours: its two skip connections are one module there
    "ls1": "{0}.combine.alpha",
    "ls2": "{1}.combine.alpha",
    "norm1": "{0}.branch.0",
    "linear_tokens": "{0}.branch.1.linear",
    "norm2": "{1}.branch.0",
    "mlp_channels.fc1": "{1}.branch.1",
    "mlp_channels.fc2": "{1}.branch.3",
}


def ours(name: str) -> str:
    if not name.startswith("blocks."):
        return name.replace("stem.proj", "patches")
    _, number, rest = name.split(".", 2)
    part = next(part for part in NAMES if rest == part or rest.startswith(f"{part}."))
    return "blocks." + NAMES[part].format(2 * int(number), 2 * int(number) + 1) + rest.removeprefix(part)


def test_equals_timm() -> None:
    timm = pytest.importorskip("timm.models.mlp_mixer")
    parts = {"block_layer": timm.ResBlock, "norm_layer": timm.Affine, "mlp_ratio": 4}
    reference = timm.MlpMixer(5, img_size=48, embed_dim=24, num_blocks=3, **parts)
    for parameter in reference.parameters():
        nn.init.normal_(parameter, std=0.3)
    net = resmlp(3, 24, 48, num_classes=5)
    state = {ours(name): tensor for name, tensor in reference.state_dict().items()}
    shapes = net.state_dict()
    net.load_state_dict({name: tensor.view(shapes[name].shape) for name, tensor in state.items()}, strict=True)
    x = torch.randn(2, 3, 48, 48, dtype=torch.double)
    torch.testing.assert_close(net.double()(x), reference.double()(x))


@pytest.mark.parametrize(("depth", "width", "millions"), [(12, 384, 15), (24, 384, 30), (24, 768, 116)])
def test_parameters_of_the_papers_table_1(depth: int, width: int, millions: int) -> None:
    with torch.device("meta"):
        net = resmlp(depth, width)
    assert round(sum(p.numel() for p in net.parameters()) / 1e6) == millions


@pytest.mark.parametrize(("depth", "start"), [(2, 0.1), (18, 0.1), (24, 1e-5), (36, 1e-6)])
def test_branches_start_small(depth: int, start: float) -> None:
    net = resmlp(depth, 8, 8, 4, num_classes=3)
    skips = [module for module in net.modules() if isinstance(module, SkipConnection)]
    assert len(skips) == 2 * depth
    for skip in skips:
        assert isinstance(skip.combine, Scaled)
        assert torch.equal(skip.combine.alpha, torch.full((8,), start))


def test_shortcuts_are_a_linear_map() -> None:
    net = resmlp(4, 8, 8, 4, num_classes=3).double()
    for name, parameter in net.named_parameters():
        if name.endswith("alpha"):
            nn.init.zeros_(parameter) if "combine" in name else nn.init.normal_(parameter)
    x, y = torch.randn(2, 2, 3, 8, 8, dtype=torch.double)
    assert abs_max(net(x + y) - net(x) - net(y) + net(torch.zeros_like(x))) < 1e-12


def abs_max(x: Tensor) -> float:
    return x.abs().max().item()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"img_size": 20}, "multiple of patch=16"), ({"img_size": 8}, "multiple"), ({"depth": 0}, "depth=0")],
)
def test_requests_that_make_no_sense(options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        resmlp(**options)
