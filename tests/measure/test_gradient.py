from statistics import mean, stdev

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import skiplab
from cases import captured
from networks import Block, Net, linear
from oracles.tower import Tower, gradients, samples
from skiplab.errors import DataError, StaleSkip
from skiplab.measure import gradient


@pytest.fixture(scope="module")
def tower() -> tuple:
    torch.manual_seed(0)
    model = Tower()
    program = skiplab.capture(model, (torch.randn(4, 6, dtype=torch.double),))
    return model, program, skiplab.find(program).expect(4)


def test_against_autograd_on_the_module(tower: tuple) -> None:
    model, program, skips = tower
    batches = samples(5, 3, 1)
    table = gradient(program, skips, batches, F.cross_entropy)
    of_batches = [gradients(model, x, target, F.cross_entropy) for x, target in batches]
    for row in table.itertuples():
        if row.what == "weight":
            values = [kernels[str(row.name)] for kernels, _ in of_batches]
        else:
            position = [skip.id for skip in skips].index(str(row.name))
            values = [merges[position] for _, merges in of_batches]
        assert row.gradient_norm == pytest.approx(mean(values), rel=1e-10)
        assert row.gradient_norm_std == pytest.approx(stdev(values), rel=1e-8)


def test_table(tower: tuple) -> None:
    model, program, skips = tower
    table = gradient(program, skips, samples(4), F.cross_entropy)
    assert list(table) == ["what", "name", "order", "gradient_norm", "gradient_norm_std", "relative"]
    layers = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    weights = table[table["what"] == "weight"]
    assert set(weights["name"]) == set(layers)
    assert weights["order"].is_monotonic_increasing
    assert list(table[table["what"] == "skip"]["name"]) == [skip.id for skip in skips]
    assert table.groupby("what")["relative"].max().tolist() == [1, 1]
    assert table["gradient_norm_std"].isna().all()
    without = gradient(program, skips.at("nothing"), samples(4), F.cross_entropy)
    assert set(without["what"]) == {"weight"}


def test_scales_with_the_loss_and_relative_does_not(tower: tuple) -> None:
    _, program, skips = tower
    batches = samples(4, 5)
    one = gradient(program, skips, batches, F.cross_entropy)
    ten = gradient(program, skips, batches, lambda o, t: 10 * F.cross_entropy(o, t))
    assert (10 * one["gradient_norm"]).to_list() == pytest.approx(ten["gradient_norm"].to_list(), rel=1e-10)
    assert one["relative"].to_list() == pytest.approx(ten["relative"].to_list(), rel=1e-10)


def test_of_skips_does_not_depend_on_the_batch_size(tower: tuple) -> None:
    _, program, skips = tower
    (x, target), *_ = samples(4)
    once = gradient(program, skips, [(x, target)], F.cross_entropy)
    repeated = gradient(program, skips, [(x.repeat(3, 1), target.repeat(3))], F.cross_entropy)
    pd.testing.assert_frame_equal(once, repeated, rtol=1e-10)


def test_the_models_own_gradients_are_left_alone() -> None:
    model = Block()
    model(torch.randn(3, 8)).sum().backward()
    model.branch[0].weight.requires_grad_(False)  # type: ignore[union-attr]
    before = {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}
    program = skiplab.capture(model, (torch.randn(3, 8),))
    with torch.no_grad():
        table = gradient(program, skiplab.find(program), [(torch.randn(3, 8), None)], lambda o, _: o.square().mean())
    assert (table["gradient_norm"] > 0).all()  # of frozen layers too: they are measured, not trained
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter.grad, before[name])  # type: ignore[arg-type]
    assert not model.branch[0].weight.requires_grad  # type: ignore[union-attr]


def test_shared_weights_have_the_whole_gradient_at_each_use() -> None:
    model = Net(lambda net, x: net.b(torch.tanh(net.a(x))), a=linear(), b=linear())
    model.b.weight = model.a.weight  # type: ignore[assignment]
    program = skiplab.capture(model, (torch.randn(3, 8),))
    x = torch.randn(4, 8)
    model(x).square().mean().backward()
    table = gradient(program, skiplab.find(program), [(x, None)], lambda o, _: o.square().mean())
    wanted = float(model.a.weight.grad.norm())  # type: ignore[union-attr, operator]
    assert table["gradient_norm"].to_list() == pytest.approx([wanted, wanted], rel=1e-6)


def test_gradients_too_small_for_single_precision_squares() -> None:
    model = nn.Sequential(linear())
    program = skiplab.capture(model, (torch.randn(3, 8),))
    x = torch.ones(1, 8)
    table = gradient(program, skiplab.find(program), [(x, None)], lambda o, _: 1e-30 * o.sum())
    assert table["gradient_norm"][0] == pytest.approx(8e-30, rel=1e-5, abs=0)


def test_batch_statistics_in_the_training_graph() -> None:
    """In the training graph a constant added before the batch norm has no gradient; in the inference graph it has."""
    torch.manual_seed(0)
    model = nn.Sequential(linear(), nn.BatchNorm1d(8), linear())
    x = torch.randn(16, 8)
    shifted: dict[bool, float] = {}
    for train in (False, True):
        program = skiplab.capture(model, (x,), train=train)
        table = gradient(program, skiplab.find(program), [(torch.ones(4, 8), None)], lambda o, _: o.sum())
        shifted[train] = float(table["gradient_norm"][0])
    assert shifted[True] < 1e-4 < shifted[False]
    assert torch.equal(model[1].running_mean, torch.zeros(8))  # type: ignore[arg-type]


def test_recurrent_layers_are_weight_layers() -> None:
    case = captured("lstm")
    x = torch.randn(2, 5, 8)
    table = gradient(case.program, case.skips.in_graph(), [(x, None)], lambda output, _: output.square().mean())
    assert table["name"].to_list() == ["lstm", "forward"]
    lstm = case.model.lstm
    assert isinstance(lstm, nn.LSTM)
    case.model(x).square().mean().backward()
    grads = [lstm.get_parameter(name).grad for name in ("weight_ih_l0", "weight_hh_l0")]
    kernels = torch.cat([grad.flatten() for grad in grads if grad is not None])
    case.model.zero_grad()
    assert table["gradient_norm"][0] == pytest.approx(float(kernels.norm()), rel=1e-5)


def test_skips_of_another_program(tower: tuple) -> None:
    with pytest.raises(StaleSkip):
        gradient(tower[1], captured("block").skips, samples(4), F.cross_entropy)


def test_data_that_is_not_finite_raises(tower: tuple) -> None:
    _, program, skips = tower
    (x, target), *_ = samples(4)
    x[0, 0] = torch.nan
    with pytest.raises(DataError, match="the loss is nan: look for NaN or overflow in the data and the weights"):
        gradient(program, skips, [(x, target)], F.cross_entropy)

    def overflowing(output: Tensor, target: Tensor) -> Tensor:
        return output.exp().exp().exp().sum() * torch.inf

    with pytest.raises(DataError, match="the loss is inf"):
        gradient(program, skips, samples(4), overflowing)
