import functools
import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import skiplab
from cases import captured, state
from oracles.tower import Tower, samples
from skiplab.analysis.edges import branch_edges
from skiplab.analysis.skips import Skips
from skiplab.errors import DataError, UsageError
from skiplab.graph.interpreter import Edge, Execution
from skiplab.graph.program import Program
from skiplab.measure import ggn_probe, lesion
from skiplab.measure.estimate import estimate

Captured = tuple[Tower, Program, Skips]
TERMS = ["loss_change", "first_order", "curvature"]


@pytest.fixture(scope="module")
def tower() -> Captured:
    torch.manual_seed(0)
    model = Tower()
    program = skiplab.capture(model, (torch.randn(4, 6, dtype=torch.double),))
    return model, program, skiplab.find(program).expect(4)


class Linear(nn.Module):
    """Linear where all is positive, since its ReLUs then do nothing; samples are the second dimension on the way."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Sequential(nn.Linear(5, 5), nn.ReLU()) for _ in range(4))
        self.head = nn.Linear(15, outputs)
        for parameter in self.double().parameters():
            parameter.data.abs_()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.a(x)
        x = x.transpose(0, 1)
        x = x + self.b(x) + self.c(x)
        x = torch.cat((x, f := self.d(x), f), -1)
        return self.head(x.transpose(0, 1)).mean(1)


@functools.cache
def linear(outputs: int) -> tuple[Program, Skips, list[tuple[Tensor, Tensor]]]:
    torch.manual_seed(outputs)
    x, target = (torch.rand(6, *shape, dtype=torch.double) for shape in ((3, 5), (outputs,)))
    program = skiplab.capture(Linear(outputs), (x,))
    return program, skiplab.find(program).expect(3), [(x, target)]


def test_exact_where_network_is_linear_and_loss_quadratic() -> None:
    program, skips, batches = linear(outputs=1)  # the square of a sign is 1, so that the draw does not matter
    found = estimate(program, skips, batches, F.mse_loss)
    wanted = lesion(program, skips, batches, F.mse_loss)["loss_change"]
    assert found["loss_change"].to_list() == pytest.approx(wanted.to_list(), rel=1e-10)
    assert (found["curvature"] > 1e-6).all()
    assert found.attrs == {"spearman": pytest.approx(1), "checked": 3}


def test_exact_in_the_mean_over_all_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    program, skips, batches = linear(outputs=3)
    tables = over_all_signs(monkeypatch, 3, lambda: estimate(program, skips, batches, F.mse_loss, exact=0))
    wanted = lesion(program, skips, batches, F.mse_loss)["loss_change"]
    assert tables["loss_change"] == pytest.approx(wanted.to_list(), rel=1e-10)


@settings(max_examples=15)
@given(st.sets(st.integers(1, 5)))
def test_how_samples_are_batched_does_not_matter(cuts: set[int]) -> None:
    sizes = [stop - begin for begin, stop in itertools.pairwise([0, *sorted(cuts), 6])]
    program, skips, ((x, target),) = linear(outputs=1)
    parts = list(zip(x.split(sizes), target.split(sizes), strict=True))
    whole, split = (estimate(program, skips, each, F.mse_loss, exact=0) for each in ([(x, target)], parts))
    for term in TERMS:
        assert split[term].to_list() == pytest.approx(whole[term].to_list(), rel=1e-10)
    assert set(split["samples"]) == {6}


def over_all_signs(
    monkeypatch: pytest.MonkeyPatch, outputs: int, measure: Callable[[], pd.DataFrame]
) -> dict[str, list[float]]:
    """Mean of each term over every pattern of signs of a sample's output, all samples having the same."""
    patterns = [torch.tensor(s, dtype=torch.double) for s in itertools.product((-1, 1), repeat=outputs)]
    tables = []
    for signs in patterns:
        monkeypatch.setattr(ggn_probe, "_signs", lambda like, _, signs=signs: signs.expand_as(like))
        tables.append(measure()[TERMS].to_numpy())
    return dict(zip(TERMS, np.mean(tables, axis=0).T.tolist(), strict=True))


def test_against_jacobians_and_hessians_of_each_sample(tower: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    model, program, skips = tower
    ((x, target),) = samples(5)
    found = over_all_signs(monkeypatch, 3, lambda: estimate(program, skips, [(x, target)], F.cross_entropy, exact=0))
    for number, block in enumerate(model.blocks):
        slopes, bends = zip(*(_by_hand(model, block, x[[i]], target[[i]]) for i in range(5)), strict=True)
        assert found["first_order"][number] == pytest.approx(sum(slopes) / 5, rel=1e-10)
        assert found["curvature"][number] == pytest.approx(sum(bends) / 5, rel=1e-10)


def _by_hand(model: Tower, block: nn.Module, x: Tensor, target: Tensor) -> tuple[float, float]:
    """Slope, and half the Gauss–Newton curvature, of one sample's loss in α, with the branch scaled by 1 − α."""

    def output(alpha: Tensor) -> Tensor:
        def branch_scaled(module: nn.Module, args: Any, f: Tensor) -> Tensor:
            return (1 - alpha) * f

        handle = block.get_submodule("branch").register_forward_hook(branch_scaled)
        try:
            return model(x)[0]
        finally:
            handle.remove()

    def loss(z: Tensor) -> Tensor:
        return F.cross_entropy(z[None], target)

    alpha = torch.zeros((), dtype=torch.double)
    jacobian, z = torch.autograd.functional.jacobian(output, alpha), output(alpha).detach()
    assert isinstance(jacobian, Tensor)
    hessian = torch.autograd.functional.hessian(loss, z)
    gradient = torch.autograd.functional.jacobian(loss, z)
    return float(gradient @ jacobian), float(jacobian @ hessian @ jacobian) / 2  # type: ignore[operator]


@pytest.mark.parametrize("name", ["unet", "dense_block", "highway", "parallel", "min_gru", "twice", "res2net"])
def test_first_order_is_the_slope(name: str) -> None:
    case = captured(name)
    program = replace(case.program, tensors={n: _double(t) for n, t in case.program.tensors.items()})
    _compare_slopes(program, case.skips, tuple(_double(x) for x in case.args))


def test_of_tokens() -> None:
    torch.manual_seed(0)
    words, branch = nn.Embedding(9, 4).double(), nn.Sequential(nn.Linear(4, 4), nn.Tanh()).double()
    tokens = torch.arange(6).reshape(2, 3)
    program = skiplab.capture(nn.Sequential(words, Residual(branch)), (tokens,))
    _compare_slopes(program, skiplab.find(program).expect(1), (tokens,))


class Residual(nn.Module):
    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


def _double(value: Tensor) -> Tensor:
    return value.double() if value.is_floating_point() else value


def _compare_slopes(program: Program, skips: Skips, args: tuple[Tensor, ...]) -> None:
    """With finite differences of the loss in a factor on the branches."""

    def loss(output: Any, target: Any = None) -> Tensor:
        return torch.stack([leaf.sin().mean() for leaf in pytree.tree_leaves(output)]).sum()

    def at(alpha: float, edges: tuple[Edge, ...]) -> float:
        with torch.no_grad():
            patches = dict.fromkeys(edges, lambda value: (1 - alpha) * value)
            return float(loss(Execution(program, args, patches=patches).finish()))

    found = estimate(program, skips, [(args, None)], loss, lambda z, target, generator: loss(z), exact=0)
    for skip, slope in zip(skips, found["first_order"], strict=True):
        edges = branch_edges(program, skip)
        assert slope == pytest.approx((at(1e-5, edges) - at(-1e-5, edges)) / 2e-5, rel=1e-5, abs=1e-9)
    assert found["first_order"].abs().max() > 1e-6


def test_table(tower: Captured) -> None:
    _, program, skips = tower
    table = estimate(program, skips, samples(3, 4), F.cross_entropy, exact=0)
    assert list(table) == ["id", "order", "samples", *TERMS]
    assert list(table["id"]) == [skip.id for skip in skips]
    assert list(table["order"]) == [program.by_name[skip.merge].index for skip in skips]
    assert set(table["samples"]) == {7}
    assert table["loss_change"].to_list() == (table["first_order"] + table["curvature"]).to_list()
    assert table.attrs == {}
    nothing = estimate(program, skips.at("nothing"), samples(3), F.cross_entropy)
    assert list(nothing) == list(table)
    assert len(nothing) == 0


def test_loss_change_scales_with_the_loss(tower: Captured) -> None:
    _, program, skips = tower
    batches = samples(4)

    def ten(output: Tensor, target: Tensor) -> Tensor:
        return 10 * F.cross_entropy(output, target)

    def probe(output: Tensor, target: Tensor, generator: torch.Generator) -> Tensor:
        return 10**0.5 * ggn_probe.cross_entropy(output, target, generator)

    one = estimate(program, skips, batches, F.cross_entropy, exact=0)
    other = estimate(program, skips, batches, ten, probe, exact=0)
    for term in TERMS:
        assert (10 * one[term]).to_list() == pytest.approx(other[term].to_list(), rel=1e-12)


@pytest.mark.parametrize(("exact", "places"), [(99, [0, 1, 2, 3]), (4, [0, 1, 2, 3]), (3, [0, 2, 3])])
def test_trust(tower: Captured, exact: int, places: list[int]) -> None:
    _, program, skips = tower
    batches = samples(4, 3)
    found = estimate(program, skips, batches, F.cross_entropy, exact=exact)
    picked = found.sort_values("loss_change").iloc[places]["id"]
    wanted = lesion(program, skips, batches, F.cross_entropy).set_index("id")["loss_change"]
    statistic = spearmanr(found.set_index("id")["loss_change"][picked], wanted[picked]).statistic  # type: ignore
    assert found.attrs == {"spearman": pytest.approx(statistic), "checked": len(places)}


def test_two_points_have_no_rank_correlation(tower: Captured) -> None:
    _, program, skips = tower
    attrs = estimate(program, skips, samples(4), F.cross_entropy, exact=2).attrs
    assert attrs["checked"] == 2
    assert attrs["spearman"] != attrs["spearman"]


def test_the_network_and_the_random_state_are_left_alone() -> None:
    torch.manual_seed(0)
    model = Tower()
    model.blocks[0].requires_grad_(False)
    program = skiplab.capture(model, (torch.randn(4, 6, dtype=torch.double),))
    before, random = state(model), torch.get_rng_state()
    batches = samples(4)
    random = torch.get_rng_state()
    with torch.no_grad():
        estimate(program, skiplab.find(program), batches, F.cross_entropy)
    assert state(model) == before | {"random": state(model)["random"]}
    assert torch.equal(torch.get_rng_state(), random)


def test_weights_that_are_frozen_change_nothing(tower: Captured) -> None:
    model, program, skips = tower
    batches = samples(4)
    learned = estimate(program, skips, batches, F.cross_entropy)
    try:
        model.requires_grad_(False)
        pd.testing.assert_frame_equal(estimate(program, skips, batches, F.cross_entropy), learned)
    finally:
        model.requires_grad_(True)


def test_what_cannot_be_estimated(tower: Captured) -> None:
    model, program, skips = tower
    batches = samples(4)
    with pytest.raises(UsageError, match=r"the data is read again for 8 exact lesions .* give a list"):
        estimate(program, skips, iter(batches), F.cross_entropy)
    with pytest.raises(UsageError, match="no probe is built in for the loss errors"):
        estimate(program, skips, batches, errors)
    with pytest.raises(UsageError, match="the loss has no gradient"):
        estimate(program, skips, batches, errors, ggn_probe.cross_entropy)
    with pytest.raises(UsageError, match="exact=-1"):
        estimate(program, skips, batches, F.cross_entropy, exact=-1)
    training = skiplab.capture(model, (batches[0][0],), train=True)
    with pytest.raises(UsageError, match="capture it without train=True"):
        estimate(training, skiplab.find(training), batches, F.cross_entropy)
    batches[0][0][2, 1] = torch.nan
    with pytest.raises(DataError, match="is nan: input 0 holds NaN or infinity in sample 2"):
        estimate(program, skips, batches, F.cross_entropy)


def errors(output: Tensor, target: Tensor) -> Tensor:
    return (output.argmax(1) != target).double().mean()


def test_gradients_that_are_not_finite_raise(tower: Captured) -> None:
    _, program, skips = tower

    def cornered(output: Tensor, target: Tensor) -> Tensor:
        return (output - output.detach()).sqrt().mean()

    with pytest.raises(DataError, match="the gradient of the whole network holds NaN or infinity"):
        estimate(program, skips, samples(4), cornered, ggn_probe.mse)
