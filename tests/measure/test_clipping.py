from collections.abc import Callable

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import skiplab
from cases import captured
from networks import Net, linear
from skiplab.errors import DataError
from skiplab.measure import clipping

WIDTH = 8
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "tanh": torch.tanh,
    "gelu": F.gelu,
    "leaky_relu": F.leaky_relu,
    "selu": F.selu,
    "abs": torch.abs,
}


class Chain(nn.Module):
    """Blocks a(x ± F(x)) in a row; a projection in the middle starts no new route."""

    def __init__(self, activation: str, sign: float = 1.0) -> None:
        super().__init__()
        self.activation, self.sign = ACTIVATIONS[activation], sign
        self.branches = nn.ModuleList(nn.Sequential(linear(), nn.Tanh(), linear()) for _ in range(3))
        self.project = linear()
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.by_hand(x)[-1][-1]

    def by_hand(self, x: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        """For each block what the shortcut brings, the merge, and the merge activated."""
        found = []
        for number, branch in enumerate(self.branches):
            shortcut = self.project(x) if number == 1 else x
            merged = shortcut + self.sign * branch(x)
            x = self.activation(merged)
            found.append((shortcut, merged, x))
        return found


def removed(x: list[float], merged: list[float], activated: list[float]) -> tuple[float, float]:
    """Shares of entries and energy, an entry at a time."""
    gates = [a / m if m else 0.0 for m, a in zip(merged, activated, strict=True)]
    kept = [min(abs(g), 1) for g, each in zip(gates, x, strict=True) if each]
    energy = sum((g * each) ** 2 for g, each in zip(gates, x, strict=True)) / sum(each**2 for each in x)
    return 1 - sum(kept) / len(kept), 1 - energy


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_against_a_loop_over_entries(activation: str, sign: float) -> None:
    torch.manual_seed(0)
    model = Chain(activation, sign)
    x = torch.randn(5, WIDTH, dtype=torch.double)
    program = skiplab.capture(model, (x,))
    table = clipping(program, skiplab.find(program).expect(3), [(x[:2], None), (x[2:], None)])
    with torch.no_grad():
        blocks = model.by_hand(x)
    route = [1.0] * len(x)
    for row, block in zip(table.itertuples(), blocks, strict=True):
        shares = [removed(*(each.tolist() for each in sample)) for sample in zip(*block, strict=True)]
        route = [before * (1 - energy) for before, (_, energy) in zip(route, shares, strict=True)]
        for column, values in (("entries", [e for e, _ in shares]), ("energy", [e for _, e in shares])):
            assert getattr(row, column) == pytest.approx(sum(values) / len(values), rel=1e-10)
        assert row.route_kept == pytest.approx(sum(route) / len(route), rel=1e-10)
        assert row.activation == activation
    assert set(table["route"]) == {table["id"][0]}
    assert table["samples"].tolist() == [5, 5, 5]


def test_nothing_is_removed_where_no_activation_follows() -> None:
    case = captured("resnet20_span1_pre")
    table = clipping(case.program, case.skips, [(torch.randn(2, 3, 16, 16), None)])
    assert (table[["entries", "energy"]] == 0).all(axis=None)
    assert (table["route_kept"] == 1).all()
    assert table["activation"].isna().all()


def test_concats_have_no_row() -> None:
    case = captured("dense_block")
    table = clipping(case.program, case.skips, [(torch.randn(2, 4, 8, 8), None)])
    assert table.empty
    assert "route_kept" in table


@pytest.mark.parametrize("place", ["input", "weight"])
def test_nan_is_an_error(place: str) -> None:
    """A share of it would be NaN, which a mean leaves out."""
    torch.manual_seed(0)
    model, x = Chain("relu"), torch.randn(5, WIDTH, dtype=torch.double)
    if place == "weight":
        model.branches[1][0].weight.data[0, 0] = torch.nan  # type: ignore[index]
    program = skiplab.capture(model, (torch.randn(5, WIDTH, dtype=torch.double),))
    if place == "input":
        x[3, 1] = torch.nan
    with pytest.raises(DataError, match="a value at a merge holds NaN or infinity: "):
        clipping(program, skiplab.find(program), [(x, None)])


@pytest.mark.parametrize(
    ("after", "told"),
    [
        (lambda m: F.relu(m.reshape(len(m), 2, 4)), True),
        (lambda m: F.relu(m.reshape(len(m), 2, 4).transpose(1, 2)), False),
        (torch.sigmoid, False),
    ],
)
def test_what_it_cannot_tell_is_nan(after: Callable[[Tensor], Tensor], told: bool) -> None:
    torch.manual_seed(0)
    net = Net(lambda net, x: after(x + net.branch(x)), branch=nn.Sequential(linear(), nn.ReLU(), linear()))
    program = skiplab.capture(net, (torch.randn(3, WIDTH),))
    table = clipping(program, skiplab.find(program).expect(1), [(torch.randn(3, WIDTH), None)])
    assert table["energy"].notna().all() == told
    assert table["activation"].notna().all()


@given(scale=st.floats(0.01, 100))
def test_invariant_to_the_scale_of_the_signal(scale: float) -> None:
    """relu(s·(x + F)) passes the same entries: without biases the whole network is homogeneous."""
    torch.manual_seed(0)
    model = Homogeneous()
    x = torch.randn(4, WIDTH, dtype=torch.double)
    program = skiplab.capture(model, (x,))
    skips = skiplab.find(program)
    pd.testing.assert_frame_equal(
        clipping(program, skips, [(x, None)]), clipping(program, skips, [(scale * x, None)]), rtol=1e-9
    )


class Homogeneous(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.Linear(WIDTH, WIDTH, bias=False), nn.ReLU())
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.branch(x))


def test_samples_of_zeros_are_left_out() -> None:
    torch.manual_seed(0)
    model = Homogeneous()
    x = torch.randn(3, WIDTH, dtype=torch.double)
    program = skiplab.capture(model, (x,))
    skips = skiplab.find(program)
    alone = clipping(program, skips, [(x, None)])
    with_zeros = clipping(program, skips, [(torch.cat((x, torch.zeros_like(x))), None)])
    assert with_zeros["energy"][0] == pytest.approx(alone["energy"][0], rel=1e-12)
    assert clipping(program, skips, [(torch.zeros_like(x), None)])["energy"].isna().all()
