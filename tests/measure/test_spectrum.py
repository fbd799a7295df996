import importlib

import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.autograd.functional import jacobian

import skiplab
from cases import captured, state
from networks import Net, heavy
from oracles.drawn import drawn
from oracles.tower import Block, Tower, samples
from skiplab.errors import DataError, StaleSkip, UsageError
from skiplab.measure.spectrum import spectrum

module = importlib.import_module("skiplab.measure.spectrum")  # the package's attribute of this name is the function

QUANTITIES = ("largest", "smallest", "mean_square")
COLUMNS = [q + end for q in QUANTITIES for end in ("", "_std")]


@pytest.fixture(scope="module")
def tower() -> tuple:
    torch.manual_seed(0)
    model = Tower()
    program = skiplab.capture(model, (torch.randn(4, 6, dtype=torch.double),))
    return model, program, skiplab.find(program).expect(4)


def by_hand(function: object, points: list[Tensor]) -> list[float]:
    """Means and deviations over points of what the whole Jacobian's singular values say."""
    rows = []
    for point in points:
        j = jacobian(function, point)  # type: ignore[arg-type]
        singular = torch.linalg.svdvals(j)
        rows.append([singular[0], singular[-1], (j.T @ j).trace() / j.shape[1], singular[0] / singular[-1]])
    values = torch.tensor(rows)
    means, deviations = values.mean(0), values.std(0)
    return [float(x) for pair in zip(means[:3], deviations[:3], strict=True) for x in pair] + [float(means[3])]


def test_against_whole_jacobians_of_the_modules(tower: tuple) -> None:
    model, program, skips = tower
    (x, _), *_ = samples(3)
    table = spectrum(program, skips, [(x, None)], samples=3)
    points, functions = [list(x)], []
    for block in model.blocks:
        assert isinstance(block, Block)
        points.append([block(point) for point in points[-1]])
        join, shortcut, branch = block.join, block.shortcut, block.branch
        functions.append(lambda v, j=join, s=shortcut, b=branch: j(s(v), b(v)))
        functions.append(lambda v, j=join, s=shortcut, b=branch: j(torch.zeros_like(s(v)), b(v)))

    def plain(v: Tensor) -> Tensor:
        for block in model.blocks:
            assert isinstance(block, Block)
            v = block.after(block.join(torch.zeros_like(v), block.branch(v)))
        return model.head(v)

    at = [p for p in points[:4] for _ in range(2)] + [points[0]] * 2
    for row, function, where in zip(table.itertuples(), [*functions, model, plain], at, strict=True):
        expected = by_hand(function, [point.detach() for point in where])
        assert [getattr(row, c) for c in [*COLUMNS, "condition"]] == pytest.approx(expected, rel=1e-8), row.id
    assert table["id"].tolist() == [i for skip in skips for i in (skip.id,) * 2] + ["network"] * 2
    assert table["network"].tolist() == ["original", "plain"] * 5
    assert list(table) == ["id", "network", "order", "samples", *COLUMNS, "condition", "exact"]
    assert table["exact"].all()
    assert set(table["samples"]) == {3}


def affine(matrix: Tensor) -> Net:
    """x + Wx, written so that it is a skip: the ReLU lies where it does nothing."""
    layer = nn.Linear(len(matrix), len(matrix), dtype=torch.double)
    shift = nn.Linear(len(matrix), len(matrix), dtype=torch.double)
    with torch.no_grad():
        shift.weight.copy_(torch.eye(len(matrix)))
        shift.bias.fill_(100)
        layer.weight.copy_(matrix)
    return Net(lambda net, x: x + net.b(torch.relu(net.a(x))), a=shift, b=layer)


def with_spectrum(singular: Tensor) -> Tensor:
    n = len(singular)
    left, right = (nn.init.orthogonal_(torch.empty(n, n, dtype=torch.double)) for _ in range(2))
    return left @ singular.double().diag() @ right


@pytest.mark.parametrize("built", [True, False])
def test_closed_form_of_a_linear_block(built: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """J = I + W has the singular values that it was made with, built whole or met by products alone."""
    torch.manual_seed(0)
    singular = torch.cat((torch.tensor([0.25, 4.0]), torch.linspace(1, 2, 38)))
    whole = with_spectrum(singular)
    program = skiplab.capture(affine(whole - torch.eye(40)), (torch.randn(3, 40, dtype=torch.double),))
    if not built:
        monkeypatch.setattr(module, "_SIDE", 8)
    x = torch.randn(2, 40, dtype=torch.double)
    table = spectrum(program, skiplab.find(program).expect(1), [(x, None)])
    row = table.iloc[0]
    assert bool(row["exact"]) == built
    assert [row["largest"], row["smallest"], row["condition"]] == pytest.approx(
        [4, 0.25, 16], rel=1e-6 if built else 2e-3
    )
    assert row["mean_square"] == pytest.approx(float(singular.square().mean()), rel=1e-6 if built else 0.1)
    plain = torch.linalg.svdvals(whole - torch.eye(40))
    assert table["largest"][1] == pytest.approx(float(plain[0]), rel=1e-6 if built else 2e-3)


def test_a_singular_jacobian_met_by_products_has_no_smallest_value(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    whole = with_spectrum(torch.cat((torch.zeros(1), torch.linspace(1, 2, 39))))
    program = skiplab.capture(affine(whole - torch.eye(40)), (torch.randn(3, 40, dtype=torch.double),))
    x = torch.randn(2, 40, dtype=torch.double)
    assert spectrum(program, skiplab.find(program), [(x, None)])["smallest"][0] == pytest.approx(0, abs=1e-12)
    monkeypatch.setattr(module, "_SIDE", 8)
    table = spectrum(program, skiplab.find(program), [(x, None)])
    assert table[["smallest", "condition"]].iloc[0].isna().all()
    assert table["largest"][0] == pytest.approx(2, rel=2e-3)


def test_the_estimates_are_a_function_of_the_seed(monkeypatch: pytest.MonkeyPatch, tower: tuple) -> None:
    _, program, skips = tower
    monkeypatch.setattr(module, "_SIDE", 2)
    batches = samples(2)
    before = torch.get_rng_state()
    tables = [spectrum(program, skips, batches, seed=seed) for seed in (0, 0, 1)]
    pd.testing.assert_frame_equal(tables[0], tables[1])
    assert (tables[0]["mean_square"] != tables[2]["mean_square"]).any()
    assert torch.equal(before, torch.get_rng_state())


def test_other_samples_of_a_training_graphs_batch_stay() -> None:
    """Batch statistics tie the samples together; a sample's own Jacobian is the block of its rows and columns."""
    torch.manual_seed(0)
    model = Net(
        lambda net, x: x + net.f(x), f=nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 4))
    ).double()
    x = torch.randn(5, 4, dtype=torch.double)
    program = skiplab.capture(model, (x,), train=True)
    before = state(model)
    table = spectrum(program, skiplab.find(program), [(x, None)], samples=2)
    assert state(model) == before
    model.train()
    whole = jacobian(model, x)
    assert isinstance(whole, Tensor)
    expected = torch.stack([torch.linalg.svdvals(whole[i, :, i])[0] for i in range(2)]).mean()
    assert table["largest"][0] == pytest.approx(float(expected), rel=1e-8)
    assert set(table["samples"]) == {2}


def test_an_output_that_no_longer_depends_on_the_input() -> None:
    """With its only way, the shortcut, cut off, the plain network's Jacobian is zero."""
    model = Net(lambda net, x: x + net.f(x), f=heavy().double())
    with torch.no_grad():
        model.f[2].weight.zero_()  # type: ignore[operator]
    program = skiplab.capture(model, (torch.randn(3, 8, dtype=torch.double),))
    table = spectrum(program, skiplab.find(program), [(torch.randn(2, 8, dtype=torch.double), None)])
    assert table["largest"].tolist() == pytest.approx([1, 0, 1, 0])


def test_a_fork_that_splits_a_value_is_measured_from_what_it_splits() -> None:
    case = captured("res2net")
    table = spectrum(case.program, case.skips, drawn(case.program, 1), samples=1)
    assert (table["largest"] > 0).all()
    assert table[["largest_std", "mean_square_std"]].isna().all(axis=None)


def test_what_it_refuses(tower: tuple) -> None:
    _, program, skips = tower
    with pytest.raises(UsageError, match="samples must be at least 1"):
        spectrum(program, skips, samples(2), samples=0)
    with pytest.raises(StaleSkip):
        spectrum(program, captured("block").skips, samples(2))
    with pytest.raises(DataError, match="no batches"):
        spectrum(program, skips, [])
    with pytest.raises(DataError, match="input 0 holds NaN"):
        spectrum(program, skips, [(torch.full((2, 6), torch.nan, dtype=torch.double), None)])
