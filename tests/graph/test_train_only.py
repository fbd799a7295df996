"""What acts in training alone is on record of an inference graph."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import skiplab
from networks import WIDTH, Net, heavy, linear


class DropPath(nn.Module):
    """As timm's."""

    def __init__(self, drop_prob: float = 0.1) -> None:
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x: Tensor) -> Tensor:
        if self.drop_prob == 0 or not self.training:
            return x
        return x * x.new_empty((len(x), 1)).bernoulli_(1 - self.drop_prob)


class Attends(nn.Module):
    """The rate of a dropout goes into the attention operator: of a module that is not called, or a number."""

    def __init__(self, module: bool) -> None:
        super().__init__()
        self.qkv = linear(WIDTH, 3 * WIDTH)
        self.dropout = nn.Dropout(0.2) if module else 0.2

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unsqueeze(1).chunk(3, -1)
        rate = self.dropout.p if isinstance(self.dropout, nn.Dropout) else self.dropout
        return x + F.scaled_dot_product_attention(q, k, v, dropout_p=rate if self.training else 0.0).squeeze(1)


def lost(model: nn.Module, *sizes: int) -> tuple[str, ...]:
    return skiplab.capture(model, (torch.randn(sizes),)).train_only


def test_drop_path_is_on_record_and_dropout_is_not() -> None:
    net = Net(
        lambda net, x: net.twice(net.drop(x + net.path(net.branch(x)))),
        branch=heavy(),
        path=DropPath(),
        never=DropPath(0.0),
        drop=nn.Dropout(0.3),
        twice=nn.Sequential(linear(), nn.AlphaDropout(0.1)),
    )
    assert lost(net, 2, WIDTH) == ("path",)
    assert skiplab.capture(net, (torch.randn(2, WIDTH),), train=True).train_only == ()


@pytest.mark.parametrize(("module", "path"), [(True, "0.dropout"), (False, "0")])
def test_dropout_inside_attention(module: bool, path: str) -> None:
    assert lost(nn.Sequential(Attends(module), linear()), 2, 3, WIDTH) == (path,)


def test_layers_of_torch() -> None:
    assert lost(nn.GRU(WIDTH, WIDTH, num_layers=2, dropout=0.1, batch_first=True), 2, 3, WIDTH) == ()
    attention = Net(lambda net, x: net.of(x, x, x)[0], of=nn.MultiheadAttention(WIDTH, 2, 0.1, batch_first=True))
    assert lost(attention, 2, 3, WIDTH) == ("of",)


def test_libraries() -> None:
    timm, torchvision = pytest.importorskip("timm"), pytest.importorskip("torchvision")
    paths = lost(timm.create_model("resnet10t", drop_path_rate=0.2), 1, 3, 64, 64)
    assert paths
    assert all("drop_path" in path for path in paths)
    assert "features.1.1.stochastic_depth" in lost(torchvision.models.convnext_tiny(), 1, 3, 64, 64)
