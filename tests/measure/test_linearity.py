import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import skiplab
from cases import captured
from networks import Net, linear
from oracles.affine import nonlinearity
from oracles.drawn import drawn
from oracles.tower import Block, Tower, samples
from skiplab.errors import DataError, StaleSkip, UsageError
from skiplab.measure.affine_fit import unexplained
from skiplab.measure.linearity import linearity

MEASURES = ["nonlinearity", "bend", "distance_from_identity"]


@pytest.fixture(scope="module")
def tower() -> tuple:
    torch.manual_seed(0)
    model = Tower()
    program = skiplab.capture(model, (torch.randn(4, 6, dtype=torch.double),))
    return model, program, skiplab.find(program).expect(4)


def maps(model: Tower, x: Tensor) -> list[tuple[Tensor, Tensor, object]]:
    """Input, output and function of each block, with its activation and without what follows, then of the network."""
    found = []
    for block in model.blocks:
        assert isinstance(block, Block)

        def f(v: Tensor, block: Block = block) -> Tensor:
            merged = block.join(block.shortcut(v), block.branch(v))
            return merged if hasattr(block, "mix") else block.after(merged)

        found.append((x, f(x), f))
        x = block(x)
    return [*found, (found[0][0], model(found[0][0]), model)]


def test_against_ridge_on_values_by_hand(tower: tuple) -> None:
    model, program, skips = tower
    (x, _), *_ = samples(24)
    x *= 3
    table = linearity(program, skips, [(x[:10], None), (x[10:], None)])
    with torch.no_grad():
        for row, (a, y, _) in zip(table.itertuples(), maps(model, x), strict=True):
            assert row.nonlinearity == pytest.approx(nonlinearity(a.numpy(), y.numpy()), rel=1e-5), row.id
            same = a.shape == y.shape
            moved = (y - a).square().sum() / a.square().sum() if same else torch.tensor(torch.nan)
            assert row.distance_from_identity == pytest.approx(float(moved), rel=1e-10, nan_ok=True)
    assert list(table) == ["id", "order", "samples", "rows", "features", *MEASURES]
    assert table["id"].tolist() == [*(skip.id for skip in skips), "network"]
    assert set(table["samples"]) == {24}
    assert set(table["rows"]) == {12}


def test_bend_against_midpoints_by_hand(tower: tuple) -> None:
    model, program, skips = tower
    batches = samples(5, 4)
    table = linearity(program, skips, batches)
    sums = np.zeros((5, 2))
    with torch.no_grad():
        for x, _ in batches:
            for i, (a, _, f) in enumerate(maps(model, x)):
                for one, other in zip(a, [a[-1], *a[:-1]], strict=True):
                    ends = f(one), f(other)  # type: ignore[operator]
                    sums[i, 0] += float((f((one + other) / 2) - sum(ends) / 2).square().sum())  # type: ignore[operator]
                    sums[i, 1] += float(((ends[0] - ends[1]) / 2).square().sum())
    assert table["bend"].tolist() == pytest.approx(list(sums[:, 0] / sums[:, 1]), rel=1e-10)


class Affine(nn.Module):
    """Two blocks whose ReLUs lie where they do nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(linear() for _ in range(4)).double()
        with torch.no_grad():
            for layer in self.layers[::2]:
                layer.bias.fill_(100)  # type: ignore[operator, union-attr]

    def forward(self, x: Tensor) -> Tensor:
        for wide, back in zip(self.layers[::2], self.layers[1::2], strict=True):
            x = x + back(torch.relu(wide(x)))
        return x


@pytest.mark.parametrize("shape", [(60, 8), (30, 5, 8)])
def test_an_affine_network_has_none(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=torch.double)
    program = skiplab.capture(Affine(), (x[:2],))
    table = linearity(program, skiplab.find(program).expect(2), [(x, None)])
    assert table["nonlinearity"].tolist() == pytest.approx([0] * 3, abs=1e-12)
    assert table["bend"].tolist() == pytest.approx([0] * 3, abs=1e-20)
    assert (table["distance_from_identity"] > 0).all()


def test_fewer_rows_than_features_tell_of_an_upper_bound() -> None:
    torch.manual_seed(0)
    x = torch.randn(12, 8, dtype=torch.double)
    program = skiplab.capture(Affine(), (x[:2],))
    table = linearity(program, skiplab.find(program), [(x, None)])
    assert (table["rows"] < table["features"]).all()
    assert (table["nonlinearity"] > 0.01).all()
    assert table["bend"].max() < 1e-20


def test_a_wide_output_is_reduced_in_expectation() -> None:
    """Half of 1,000 outputs are one affine map again and again: their numbers must not add up in a direction."""
    torch.manual_seed(0)
    wide = Net(
        lambda net, x: torch.cat((net.c(x).expand(-1, 500), torch.tanh(3 * net.a(x))), -1),
        a=linear(6, 500),
        c=linear(6, 1),
    ).double()
    x = torch.randn(100, 6, dtype=torch.double)
    program = skiplab.capture(wide, (x[:2],))
    reduced = [linearity(program, skiplab.find(program), [(x, None)], seed=s)["nonlinearity"][0] for s in range(10)]
    with torch.no_grad():
        y = wide(x)
    assert np.mean(reduced) == pytest.approx(unexplained((x[::2], y[::2]), (x[1::2], y[1::2])), rel=0.1)
    assert len(set(reduced)) == 10


def test_batching_does_not_matter_to_the_fit_and_samples_end_where_asked(tower: tuple) -> None:
    _, program, skips = tower
    (x, _), *_ = samples(30)
    whole = linearity(program, skips, [(x[:20], None)])
    parts = linearity(program, skips, iter([(x[:7], None), (x[7:25], None), (x[25:], None)]), samples=20)
    pd.testing.assert_frame_equal(whole.drop(columns="bend"), parts.drop(columns="bend"), rtol=1e-6)


@pytest.mark.parametrize("name", ["resnet20", "unet", "res2net", "bert", "written_lstm", "pre_norm", "lstm"])
def test_networks(name: str) -> None:
    case = captured(name)
    skips = case.skips.in_graph()
    table = linearity(case.program, skips, drawn(case.program, 8, 8))
    assert len(table) == len({skip.merge for skip in skips}) + 1
    assert (table[["nonlinearity", "bend"]] >= 0).all(axis=None)
    assert table["bend"].max() > 1e-7  # none of them is affine, and single precision rounds
    rows = {"bert": 8 * 8, "pre_norm": 8 * 5, "lstm": 8 * 5}
    assert set(table["rows"]) == {rows.get(name, 8)}


def test_what_it_refuses(tower: tuple) -> None:
    _, program, skips = tower
    with pytest.raises(UsageError, match="samples must be at least 4"):
        linearity(program, skips, samples(8), samples=3)
    with pytest.raises(DataError, match="needs at least 4 samples, two to fit and two to score, got 3"):
        linearity(program, skips, samples(2, 1))
    with pytest.raises(StaleSkip):
        linearity(program, captured("block").skips, samples(8))
    with pytest.raises(DataError, match="input 0 holds NaN"):
        linearity(program, skips, [(torch.full((4, 6), torch.nan, dtype=torch.double), None)])
