from statistics import mean, stdev

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import skiplab
from cases import captured
from networks import Block, Net, linear
from oracles.tower import Tower, gradients, samples
from skiplab.errors import DataError, StaleSkip, UsageError
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
    assert list(table) == [
        *("what", "name", "network", "order", "gradient_norm", "gradient_norm_std", "relative"),
        *("shortcut_norm", "branch_norm"),
    ]
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
    with pytest.raises(DataError, match="the loss is nan: input 0 holds NaN or infinity in sample 0"):
        gradient(program, skips, [(x, target)], F.cross_entropy)

    def overflowing(output: Tensor, target: Tensor) -> Tensor:
        return output.exp().exp().exp().sum() * torch.inf

    with pytest.raises(DataError, match="the loss is inf"):
        gradient(program, skips, samples(4), overflowing)


def split_by_hand(tower: Tower, x: Tensor, target: Tensor) -> list[tuple[float, float]]:
    """For each block the gradient of its input by each way: the other way reads a copy."""
    found = []
    for number in range(len(tower.blocks)):
        ways: list[Tensor] = []
        value = x
        for place, block in enumerate(tower.blocks):
            one = two = value
            if place == number:
                one, two = (value.detach().clone().requires_grad_() for _ in range(2))
                ways = [one, two]
            value = block.after(block.join(block.shortcut(one), block.branch(two)))  # type: ignore[operator]
        grads = torch.autograd.grad(F.cross_entropy(tower.head(value), target), ways)
        shortcut, branch = ((len(x) * grad).norm(dim=1).square().mean().sqrt() for grad in grads)
        found.append((float(shortcut), float(branch)))
    return found


def test_the_two_ways_by_hand(tower: tuple) -> None:
    model, program, skips = tower
    ((x, target),) = samples(5)
    table = gradient(program, skips, [(x, target)], F.cross_entropy)
    parts = table[table["what"] == "skip"][["shortcut_norm", "branch_norm"]].to_numpy().tolist()
    assert parts == [pytest.approx(pair, rel=1e-9) for pair in split_by_hand(model, x, target)]
    assert table[table["what"] == "weight"][["shortcut_norm", "branch_norm"]].isna().all(axis=None)


def test_a_branch_that_leaves_its_fork_by_several_edges_is_added_up() -> None:
    """x + G(A(x) + B(x)): the branch's gradient is that of the sum, not a sum of norms."""
    net = Net(lambda net, x: x + net.c(torch.tanh(net.a(x)) + torch.tanh(net.b(x))), a=linear(), b=linear(), c=linear())
    net.double()
    x = torch.randn(3, 8, dtype=torch.double)
    program = skiplab.capture(net, (x,))
    skips = skiplab.find(program).expect(1)
    table = gradient(program, skips, [(x, None)], lambda o, _: o.square().mean())
    one, two = x.clone().requires_grad_(), x.clone().requires_grad_()
    out = one + net.c(torch.tanh(net.a(two)) + torch.tanh(net.b(two)))  # type: ignore[operator]
    grads = torch.autograd.grad(out.square().mean(), (one, two))
    row = table[table["what"] == "skip"].iloc[0]
    assert [row["shortcut_norm"], row["branch_norm"]] == pytest.approx([float(g.norm() * 3**0.5) for g in grads])


def test_a_reader_that_takes_the_fork_twice_counts_twice() -> None:
    net = Net(lambda net, x: x + net.a(x * x), a=linear()).double()
    x = torch.randn(3, 8, dtype=torch.double)
    program = skiplab.capture(net, (x,))
    table = gradient(program, skiplab.find(program).expect(1), [(x, None)], lambda o, _: o.square().mean())
    one = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad((x + net.a(one * one)).square().mean(), one)  # type: ignore[operator]
    assert table[table["what"] == "skip"]["branch_norm"].tolist() == pytest.approx([float(grad.norm() * 3**0.5)])


def test_dropout_of_a_training_graph_leaves_the_random_state_alone() -> None:
    net = Net(lambda net, x: x + net.b(F.dropout(torch.tanh(net.a(x)), 0.5)), a=linear(), b=linear())
    program = skiplab.capture(net, (torch.randn(4, 8),), train=True)
    state = torch.get_rng_state()
    tables = [gradient(program, skiplab.find(program), [(torch.ones(4, 8), None)], first_square) for _ in range(2)]
    assert torch.equal(torch.get_rng_state(), state)
    assert tables[0].equals(tables[1])


def test_losses_of_other_forms(tower: tuple) -> None:
    _, program, skips = tower
    batches = samples(3)
    with pytest.raises(UsageError, match="the loss has no gradient"):
        gradient(program, skips, batches, lambda o, t: F.cross_entropy(o.detach(), t))
    per_sample = gradient(program, skips, batches, lambda o, t: F.cross_entropy(o, t, reduction="none"))
    pd.testing.assert_frame_equal(per_sample, gradient(program, skips, batches, F.cross_entropy))
    with pytest.raises(
        UsageError, match="the data is read for 2 networks, and `batches` is an iterator, which can be read only once"
    ):
        gradient(program, skips, iter(batches), F.cross_entropy, networks=("original", "plain"))


def test_the_plain_network_has_no_shortcut(tower: tuple) -> None:
    model, program, skips = tower
    ((x, target),) = samples(4)
    table = gradient(program, skips, [(x, target)], F.cross_entropy, networks=("original", "plain"))
    plain = table[table["network"] == "plain"]
    assert (plain[plain["what"] == "skip"]["shortcut_norm"] == 0).all()
    value = x
    for block in model.blocks:
        shortcut, branch = block.shortcut(value), block.branch(value)
        value = block.after(block.join(torch.zeros_like(shortcut), branch))
    model.zero_grad()
    F.cross_entropy(model.head(value), target).backward()
    weights = plain[plain["what"] == "weight"].set_index("name")["gradient_norm"]
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            grad = module.weight.grad
            assert weights[name] == pytest.approx(0.0 if grad is None else float(grad.norm()), rel=1e-9)
    model.zero_grad()


@pytest.mark.parametrize("name", ["resnet18", "unet", "dense_block", "bert", "highway", "written_gru_cho", "keywords"])
def test_every_kind_of_network(name: str) -> None:
    case = captured(name)
    args, kwargs = case.program.example
    inputs = (*args, kwargs) if kwargs else args
    table = gradient(case.program, case.skips.in_graph(), [(inputs, None)], first_square)
    assert table["gradient_norm"].notna().all()
    assert (table[table["what"] == "skip"][["shortcut_norm", "branch_norm"]] > 0).all(axis=None)


def first_square(output: object, _: object) -> Tensor:
    real = [t for t in pytree.tree_leaves(output) if isinstance(t, Tensor) and t.is_floating_point()]
    return real[0].square().mean()
