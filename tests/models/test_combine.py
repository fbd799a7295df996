import pytest
import torch
from torch import Tensor, nn

from skiplab.errors import UsageError
from skiplab.models import DropPath, Gated, Scaled, ShortcutDropout, ShortcutGated, Weighted


def signals() -> tuple[Tensor, Tensor]:
    return torch.randn(5, 3, dtype=torch.double), torch.randn(5, 3, dtype=torch.double)


def test_gates() -> None:
    s, f = signals()
    layer = nn.Linear(3, 3).double()
    g = 1 / (1 + torch.exp(-(s @ layer.weight.T + layer.bias)))
    torch.testing.assert_close(Gated(layer)(s, f), (1 - g) * s + g * f)
    torch.testing.assert_close(ShortcutGated(layer)(s, f), s - g * s + f)


@pytest.mark.parametrize(("a", "b"), [(0.5, 1.0), (0.5, 0.5), (-2.0, 3.0)])
def test_constants(a: float, b: float) -> None:
    s, f = signals()
    assert torch.equal(Weighted(a, b)(s, f), a * s + b * f)


def test_one_number_or_one_a_channel() -> None:
    s, f = signals()
    assert torch.equal(Scaled()(s, f), s)
    assert torch.equal(Scaled(2)(s, f), s + 2 * f)
    each = Scaled(0.5, (3,)).double()
    each.alpha.data[1] = 0
    assert torch.equal(each(s, f), s + f * torch.tensor([0.5, 0, 0.5]))


def test_dropping_the_shortcut() -> None:
    """Each of its values is zero half of the time, and doubled else: the expectation is the value."""
    shortcut, branch, join = torch.ones(300, 300), torch.full((300, 300), 5.0), ShortcutDropout(0.5)
    out = join(shortcut, branch) - 5
    assert set(out.unique().tolist()) == {0, 2}
    assert out.mean().item() == pytest.approx(1, abs=5 / 300)  # five standard errors of values with deviation 1
    assert torch.equal(join.eval()(shortcut, branch), shortcut + branch)


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.8])
def test_dropping_branches(rate: float) -> None:
    """A sample's branch is dropped as a whole, and divided by 1 − rate where it is not."""
    n = 40_000
    shortcut, branch, join = torch.ones(n, 1, 2), torch.tensor([2.0, -4.0]).expand(n, 1, 2), DropPath(rate)
    out = join(shortcut, branch) - 1
    share = (out[:, 0, 0] != 0).float().mean().item()
    assert share == pytest.approx(1 - rate, abs=5 * (rate * (1 - rate) / n) ** 0.5)
    for row in out.unique(dim=0):
        expected = torch.tensor([[2.0, -4.0]]) / (1 - rate)
        assert torch.equal(row, torch.zeros(1, 2)) or torch.allclose(row, expected)
    assert torch.equal(join.eval()(shortcut, branch), shortcut + branch)


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_rates_that_make_no_sense(rate: float) -> None:
    with pytest.raises(UsageError, match=f"rate={rate}"):
        DropPath(rate)
