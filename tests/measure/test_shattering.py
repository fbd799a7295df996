import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import skiplab
from cases import captured
from networks import Net, linear
from skiplab.errors import DataError, UsageError
from skiplab.graph.program import Program
from skiplab.measure import shattering
from skiplab.models import resnet


class Quadratic(nn.Module):
    """½ (x W) ∘ (x W): the gradient of a projection is linear in x, so that its correlation has a closed form."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6, bias=False)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        return y * y / 2


def test_against_the_closed_form() -> None:
    torch.manual_seed(0)
    model = Quadratic()
    x = torch.randn(4, 6, dtype=torch.double)
    program = skiplab.capture(model, (x,))
    distances = (0.1, 1.0)
    table = shattering(program, skiplab.find(program), [(x, None)], ["original"], distances, seed=5)
    onto = torch.randn(1, 6, generator=torch.Generator().manual_seed(5)).double()
    noise = torch.randn(4, 6, generator=torch.Generator().manual_seed(5)).double()
    noise = noise / noise.norm(dim=1, keepdim=True) * x.norm(dim=1, keepdim=True)
    weight = model.layer.weight.detach()
    matrix = weight.T @ torch.diag(onto[0]) @ weight
    for distance, row in zip(distances, table.itertuples(), strict=True):
        near = x + distance * noise
        values = torch.cosine_similarity(x @ matrix, near @ matrix, dim=1)
        assert row.correlation == pytest.approx(float(values.mean()), rel=1e-6)
        assert row.correlation_std == pytest.approx(float(values.std()), rel=1e-6)


@pytest.fixture(scope="module")
def affine() -> Program:
    return skiplab.capture(Net(lambda net, x: net.a(x) + x, a=linear()), (torch.randn(2, 8),))


@given(distance=st.floats(1e-3, 10))
def test_a_linear_network_has_one_gradient(affine: Program, distance: float) -> None:
    program = affine
    table = shattering(program, skiplab.find(program), [(torch.randn(3, 8), None)], ["original"], (distance,))
    assert table["correlation"].tolist() == pytest.approx([1.0], abs=1e-5)


def test_the_plain_network_shatters_more_at_initialisation() -> None:
    """Balduzzi et al. 2017, §2, on networks deep enough to show it."""
    torch.manual_seed(0)
    x = torch.randn(8, 3, 16, 16)
    program = skiplab.capture(resnet(38, width=4), (x,), train=True)
    table = shattering(program, skiplab.find(program), [(x, None)], distances=(0.1,)).set_index("network")
    assert table["correlation"]["original"] > table["correlation"]["plain"]


@pytest.mark.parametrize("name", ["bert", "unet", "written_gru_cho", "keywords"])
def test_every_kind_of_network(name: str) -> None:
    case = captured(name)
    args, kwargs = case.program.example
    table = shattering(
        case.program, case.skips.in_graph(), [((*args, kwargs) if kwargs else args, None)], distances=(1e-3,)
    )
    assert table["correlation"].between(0.5, 1.0001).all()


def test_bad_distances() -> None:
    case = captured("block")
    with pytest.raises(UsageError, match="give numbers above 0"):
        shattering(case.program, case.skips, [(torch.randn(2, 8), None)], distances=(0.1, 0.0))


def test_dropout_is_the_same_at_every_distance() -> None:
    """Else the gradients at two inputs would differ however near they are."""
    net = Net(lambda net, x: x + net.a(torch.nn.functional.dropout(torch.tanh(net.b(x)), 0.5)), a=linear(), b=linear())
    program = skiplab.capture(net, (torch.randn(4, 8),), train=True)
    table = shattering(program, skiplab.find(program), [(torch.randn(4, 8), None)], ["original"], (1e-4,))
    assert table["correlation"][0] > 0.999


def test_nan_is_an_error() -> None:
    case = captured("block")
    x = torch.randn(3, 8)
    x[1, 0] = torch.nan
    with pytest.raises(DataError, match="input 0 holds NaN or infinity in sample 1"):
        shattering(case.program, case.skips, [(x, None)])
