from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import skiplab
from cases import captured
from oracles.tower import Tower, mean_loss, samples
from skiplab.errors import DataError, StaleSkip
from skiplab.measure import lesion
from skiplab.measure.edges import branch_edges, shortcut_edges
from skiplab.program import Program
from skiplab.skips import Skips

Captured = tuple[Tower, Program, Skips]


@pytest.fixture(scope="module")
def tower() -> Captured:
    torch.manual_seed(0)
    model = Tower()
    program = skiplab.capture(model, (torch.randn(4, 6, dtype=torch.double),))
    return model, program, skiplab.find(program).expect(4)


def errors(output: Tensor, target: Tensor) -> Tensor:
    return (output.argmax(1) != target).double().mean()


@pytest.mark.parametrize("part", ["branch", "shortcut"])
def test_against_a_forward_pass_written_by_hand(tower: Captured, part: Any) -> None:
    model, program, skips = tower
    batches = samples(5, 8, 1)
    table = lesion(program, skips, batches, F.cross_entropy, metric=errors, part=part)
    whole = mean_loss(model, batches, F.cross_entropy)
    losses = [mean_loss(model, batches, F.cross_entropy, (number, part)) for number in range(4)]
    metrics = [mean_loss(model, batches, errors, (number, part)) for number in range(4)]
    whole_metric = mean_loss(model, batches, errors)
    assert table["loss"].to_list() == pytest.approx(losses, rel=1e-12)
    assert table["loss_change"].to_list() == pytest.approx([loss - whole for loss in losses], abs=1e-12)
    assert table["metric"].to_list() == pytest.approx(metrics, abs=1e-12)
    assert table["metric_change"].to_list() == pytest.approx([m - whole_metric for m in metrics], abs=1e-12)
    assert table["loss_change"].abs().min() > 1e-4


def test_table(tower: Captured) -> None:
    _, program, skips = tower
    table = lesion(program, skips, samples(3, 4), F.cross_entropy)
    assert list(table) == ["id", "order", "samples", "loss", "loss_change"]
    assert list(table["id"]) == [skip.id for skip in skips]
    assert list(table["order"]) == [program.by_name[skip.merge].index for skip in skips]
    assert set(table["samples"]) == {7}
    assert list(lesion(program, skips.at("nothing"), samples(3), F.cross_entropy)) == list(table)


def test_order_of_the_skips_does_not_matter(tower: Captured) -> None:
    _, program, skips = tower
    batches = samples(4)
    straight = lesion(program, skips, batches, F.cross_entropy)
    backwards = lesion(program, Skips(reversed(skips)), batches, F.cross_entropy)
    assert backwards.iloc[::-1].reset_index(drop=True).equals(straight)


def test_how_samples_are_batched_does_not_matter(tower: Captured) -> None:
    _, program, skips = tower
    (x, target), *_ = samples(6)
    whole = lesion(program, skips, [(x, target)], F.cross_entropy)
    parts = lesion(program, skips, [(x[:1], target[:1]), (x[1:], target[1:])], F.cross_entropy)
    pd.testing.assert_frame_equal(whole, parts, rtol=1e-12)


def test_loss_change_scales_with_the_loss(tower: Captured) -> None:
    _, program, skips = tower
    batches = samples(4)
    one = lesion(program, skips, batches, F.cross_entropy)
    ten = lesion(program, skips, batches, lambda o, t: 10 * F.cross_entropy(o, t))
    assert (10 * one["loss_change"]).to_list() == pytest.approx(ten["loss_change"].to_list(), rel=1e-12)


def test_a_branch_of_zeros_is_no_loss() -> None:
    model = Tower()
    with torch.no_grad():
        for parameter in model.get_submodule("blocks.2.branch").parameters():
            parameter.zero_()
    program = skiplab.capture(model, (torch.randn(4, 6, dtype=torch.double),))
    table = lesion(program, skiplab.find(program), samples(4), F.cross_entropy)
    assert [change == 0 for change in table["loss_change"]] == [False, False, True, False]


def test_the_networks_parameters_and_gradients_are_left_alone(tower: Captured) -> None:
    model, program, skips = tower
    before = {name: value.clone() for name, value in model.state_dict().items()}
    lesion(program, skips, samples(4), F.cross_entropy)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_all_branches_of_a_parallel_block_go_together() -> None:
    case = captured("parallel")
    (skip,) = case.skips
    branch, shortcut = branch_edges(case.program, skip), shortcut_edges(case.program, skip)
    assert (len(branch), len(shortcut)) == (2, 1)
    assert {operand for _, operand in branch} == set(skip.branch)
    assert [operand for _, operand in shortcut] == [skip.operand]

    def distance(output: Tensor, target: Tensor) -> Tensor:
        return (output - target).abs().max()

    x = torch.randn(2, 5, 8)
    table = lesion(case.program, case.skips, [(x, x)], distance)
    assert table["loss"][0] == 0  # nothing but x is left


def test_a_concatenated_shortcut_is_zeroed_in_its_place() -> None:
    case = captured("unet")
    x = torch.randn(2, 4, 8, 8)
    table = lesion(case.program, case.skips, [(x, None)], lambda output, _: output.square().mean(), part="shortcut")
    assert (table["loss_change"] != 0).all()


def test_skips_of_another_program(tower: Captured) -> None:
    with pytest.raises(StaleSkip, match="call `find` on this one again"):
        lesion(tower[1], captured("block").skips, samples(4), F.cross_entropy)


def test_data_that_is_not_finite_raises(tower: Captured) -> None:
    _, program, skips = tower
    (x, target), *_ = samples(4)
    x[2, 1] = torch.nan
    with pytest.raises(DataError, match="is nan: input 0 holds NaN or infinity in sample 2"):
        lesion(program, skips, [(x, target)], F.cross_entropy)


def test_a_lesioned_network_may_overflow(tower: Captured) -> None:
    _, program, skips = tower

    def loss(output: Tensor, target: Tensor) -> Tensor:
        change = (output - wanted).abs().max()
        return torch.where(change > 0, torch.inf, change)

    x = samples(4)[0][0]
    wanted = tower[0](x).detach()
    assert set(lesion(program, skips, [(x, None)], loss)["loss"]) == {float("inf")}


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "there is no batch to measure on: the iterable of batches is empty or used up"),
        (iter([torch.zeros(4, 6)]), r"batch 1 is no pair \(inputs, target\)"),
        (
            [(torch.zeros(4, 6).double(), None), (torch.zeros(4, 7), None)],
            r"batch 2 has an input of shape \(4, 7\) where Tower was captured with \('any', 6\)",
        ),
        (
            [((torch.zeros(4, 6), torch.zeros(4, 6)), None)],
            r"batch 1: Tower takes \(tensor\) as captured, got \(tensor, tensor\)",
        ),
    ],
)
def test_batches_that_do_not_fit(tower: Captured, batches: Any, message: str) -> None:
    _, program, skips = tower
    with pytest.raises(DataError, match=message):
        lesion(program, skips, batches, lambda output, _: output.mean())


def test_batches_may_come_from_a_generator_and_hold_several_inputs() -> None:
    case = captured("two_inputs")
    batches = (((torch.randn(n, 8), torch.randn(n, 8)), None) for n in (2, 3))
    table = lesion(case.program, case.skips, batches, lambda output, _: output.square().mean())
    assert list(table["samples"]) == [5]


def test_fixed_batch_size_is_held_to(monkeypatch: pytest.MonkeyPatch) -> None:
    class Fixed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Tower()

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x.reshape(int(x.shape[0]), 6))

    program = skiplab.capture(Fixed(), (torch.randn(4, 6, dtype=torch.double),))
    measure: Callable[[int], Any] = lambda n: lesion(program, skiplab.find(program), samples(n), F.cross_entropy)  # noqa: E731
    assert len(measure(4)) == 4
    with pytest.raises(DataError, match=r"shape \(5, 6\) where Fixed was captured with \(4, 6\)"):
        measure(5)
