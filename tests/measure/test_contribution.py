from statistics import mean, stdev

import pandas as pd
import pytest
import torch
from torch import nn

import skiplab
from cases import captured
from oracles.tower import Tower, contributions, samples
from skiplab.errors import DataError, StaleSkip
from skiplab.graph.interpreter import run
from skiplab.measure import contribution

QUANTITIES = ("ratio", "cosine", "growth", "influence")


@pytest.fixture(scope="module")
def tower() -> tuple:
    torch.manual_seed(0)
    model = Tower()
    program = skiplab.capture(model, (torch.randn(4, 6, dtype=torch.double),))
    return model, program, skiplab.find(program).expect(4)


def test_against_hooks_on_the_module(tower: tuple) -> None:
    model, program, skips = tower
    batches = samples(5, 3)
    table = contribution(program, skips, batches)
    wanted = contributions(model, torch.cat([x for x, _ in batches]))
    for (_, row), block in zip(table.iterrows(), wanted, strict=True):
        for quantity in QUANTITIES:
            values = block[quantity]
            expected = [mean(values), stdev(values)] if values else [float("nan")] * 2
            assert list(row[[quantity, f"{quantity}_std"]]) == pytest.approx(expected, rel=1e-10, nan_ok=True)


def test_table(tower: tuple) -> None:
    _, program, skips = tower
    table = contribution(program, skips, samples(3, 4))
    assert list(table) == ["id", "order", "samples", *(q + end for q in QUANTITIES for end in ("", "_std"))]
    assert list(table["id"]) == [skip.id for skip in skips]
    assert set(table["samples"]) == {7}
    assert table["cosine"].isna().tolist() == [False, False, False, True]
    assert contribution(program, skips, samples(2))["ratio_std"].notna().all()
    assert contribution(program, skips, samples(1))["ratio_std"].isna().all()
    assert list(contribution(program, skips.at("nothing"), samples(3))) == list(table)


def test_order_and_batching_do_not_matter(tower: tuple) -> None:
    _, program, skips = tower
    (x, _), *_ = samples(6)
    whole = contribution(program, skips, [(x, None)])
    parts = contribution(program, skiplab.Skips(reversed(skips)), [(x[:2], None), (x[2:], None)])
    pd.testing.assert_frame_equal(whole, parts.iloc[::-1].reset_index(drop=True), rtol=1e-12)


def test_invariant_to_the_scale_of_the_output(tower: tuple) -> None:
    model, program, skips = tower
    batches = samples(6)
    before = contribution(program, skips, batches)
    with torch.no_grad():
        model.head.weight.mul_(100)
    after = contribution(program, skips, batches)
    with torch.no_grad():
        model.head.weight.div_(100)
    assert before.equals(after)


def test_scaling_a_branch_scales_its_ratio_alone(tower: tuple) -> None:
    model, program, skips = tower
    batches = samples(6)
    before = contribution(program, skips, batches)
    last = model.blocks[0].branch[2]
    with torch.no_grad():
        for parameter in last.parameters():
            parameter.mul_(4)
    after = contribution(program, skips, batches)
    with torch.no_grad():
        for parameter in last.parameters():
            parameter.div_(4)
    assert after["ratio"][0] == pytest.approx(4 * before["ratio"][0], rel=1e-12)
    assert after["cosine"][0] == pytest.approx(before["cosine"][0], rel=1e-12)


def test_subtraction_counts_as_taking_away() -> None:
    """x − x/2 takes away half of what x says: ratio ½, cosine −1, growth ½; what is left points the same way."""

    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.branch = nn.Sequential(nn.Linear(4, 4, bias=False), nn.ReLU())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x - self.branch(x)

    model = Half()
    with torch.no_grad():
        model.branch[0].weight.copy_(torch.eye(4) / 2)  # type: ignore[operator]
    program = skiplab.capture(model, (torch.rand(3, 4),))
    table = contribution(program, skiplab.find(program), [(torch.rand(5, 4) + 0.1, None)])
    assert [table[q][0] for q in QUANTITIES] == pytest.approx([0.5, -1, 0.5, 0], abs=1e-6)


def test_parallel_branches_are_added_up() -> None:
    case = captured("parallel")
    x = torch.randn(3, 5, 8)
    with torch.no_grad():
        f = run(case.program, x) - x
    table = contribution(case.program, case.skips, [(x, None)])
    expected = (f.flatten(1).norm(dim=1) / x.flatten(1).norm(dim=1)).mean()
    assert table["ratio"][0] == pytest.approx(float(expected), rel=1e-5)


def test_samples_of_zeros_have_no_ratio(tower: tuple) -> None:
    _, program, skips = tower
    (x, _), *_ = samples(3)
    alone = contribution(program, skips, [(x, None)])
    with_zeros = contribution(program, skips, [(torch.cat((x, torch.zeros_like(x[:2]))), None)])
    for quantity in QUANTITIES:
        assert with_zeros[quantity][0] == pytest.approx(alone[quantity][0], rel=1e-12)
    assert with_zeros["samples"][0] == 5
    nothing = contribution(program, skips, [(torch.zeros_like(x), None)])
    assert all(nothing[q].isna()[0] for q in QUANTITIES)


def test_dense_skips_compare_each_reused_value_with_all_others() -> None:
    case = captured("dense_block")
    x = torch.randn(2, 4, 8, 8)
    table = contribution(case.program, case.skips, [(x, None)])
    assert len(table) == 10
    assert table["growth"].isna().all()
    assert (table["ratio"] > 0).all()


def test_skips_of_another_program(tower: tuple) -> None:
    with pytest.raises(StaleSkip):
        contribution(tower[1], captured("block").skips, samples(4))


def test_no_batches(tower: tuple) -> None:
    with pytest.raises(DataError, match="no batches: "):
        contribution(tower[1], tower[2], iter(()))
