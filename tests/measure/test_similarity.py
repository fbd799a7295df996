import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import skiplab
from cases import captured
from networks import Net, heavy
from oracles.drawn import drawn
from oracles.tower import Tower, by_hand, samples
from skiplab.errors import DataError, StaleSkip, UsageError
from skiplab.measure.similarity import similarity


@pytest.fixture(scope="module")
def tower() -> tuple:
    torch.manual_seed(0)
    model = Tower()
    program = skiplab.capture(model, (torch.randn(4, 6, dtype=torch.double),))
    return model, program, skiplab.find(program).expect(4)


def block_outputs(model: Tower, x: Tensor) -> list[list[list[float]]]:
    """Each merge's values by hand; the second is followed by a ReLU."""
    merges: list[Tensor] = []
    with torch.no_grad():
        by_hand(model, x, merges=merges)
        merges[1] = torch.relu(merges[1])
    return [merge.tolist() for merge in merges]


def hsic(x: list[list[float]], y: list[list[float]]) -> float:
    """Song et al. 2012, equation 5, entry by entry."""
    n = len(x)
    k, m = ([[sum(map(float.__mul__, a, b)) for b in v] for a in v] for v in (x, y))
    pairs = [(i, j) for i in range(n) for j in range(n) if i != j]
    trace = sum(k[i][j] * m[j][i] for i, j in pairs)
    all_k, all_m = sum(k[i][j] for i, j in pairs), sum(m[i][j] for i, j in pairs)
    chained = sum(k[i][j] * m[j][q] for i, j in pairs for q in range(n) if q != j)
    return (trace + all_k * all_m / ((n - 1) * (n - 2)) - 2 / (n - 2) * chained) / (n * (n - 3))


def test_against_the_formula_in_loops(tower: tuple) -> None:
    model, program, skips = tower
    batches = samples(6, 6)
    outputs = [block_outputs(model, x) for x, _ in batches]
    expected = np.zeros((4, 4))
    mean = lambda i, j: sum(hsic(values[i], values[j]) for values in outputs) / len(outputs)  # noqa: E731
    for i in range(4):
        for j in range(4):
            expected[i, j] = mean(i, j) / (mean(i, i) * mean(j, j)) ** 0.5
    table = similarity(program, skips, batches)
    assert list(table) == ["id", "other", "order", "other_order", "cka", "samples"]
    assert table["cka"].to_numpy().reshape(4, 4) == pytest.approx(expected, rel=1e-9)
    assert set(table["samples"]) == {12}


def test_a_larger_batch_counts_by_its_samples(tower: tuple) -> None:
    model, program, skips = tower
    batches = samples(5, 9)
    weighted = np.zeros((4, 4))
    for x, _ in batches:
        values = block_outputs(model, x)
        weighted += len(x) * np.array([[hsic(a, b) for b in values] for a in values])
    table = similarity(program, skips, batches)
    scale = np.sqrt(weighted.diagonal())
    assert table["cka"].to_numpy().reshape(4, 4) == pytest.approx(weighted / np.outer(scale, scale), rel=1e-9)
    pd.testing.assert_frame_equal(table, similarity(program, skips, batches[::-1]), rtol=1e-12)


def test_alike_up_to_rotation_shift_and_scale() -> None:
    """A block with a branch of zeros, in a turned, scaled and shifted frame, represents what it was given."""

    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = heavy().double(), heavy().double()
            self.turn = nn.Linear(8, 8, dtype=torch.double)
            nn.init.orthogonal_(self.turn.weight)
            with torch.no_grad():
                self.turn.weight.mul_(7)
                self.last[2].weight.zero_()  # type: ignore[operator]

        def forward(self, x: Tensor) -> Tensor:
            x = x + self.first(x)
            x = self.turn(x)
            return x + self.last(x)

    torch.manual_seed(0)
    x = torch.randn(8, 8, dtype=torch.double)
    program = skiplab.capture(Turned(), (x,))
    table = similarity(program, skiplab.find(program).expect(2), [(x, None)])
    assert table["cka"].tolist() == pytest.approx([1, 1, 1, 1], rel=1e-10)


def test_unrelated_features_are_near_zero_whatever_the_batch_size() -> None:
    """Half the input passes one block, half the other; without the unbiased estimate five samples give 0.6."""
    torch.manual_seed(0)  # before the weights are drawn
    model = Net(
        lambda net, x: torch.cat(((a := x[:, :8]) + net.f(a), (b := x[:, 8:]) + net.g(b)), -1), f=heavy(), g=heavy()
    )
    program = skiplab.capture(model, (torch.randn(4, 16),))
    table = similarity(program, skiplab.find(program).expect(2), [(torch.randn(5, 16), None) for _ in range(400)])
    assert abs(table["cka"][1]) < 0.1


def test_what_does_not_vary_has_no_similarity() -> None:
    case = captured("block")
    table = similarity(case.program, case.skips, [(torch.ones(4, 8), None)])
    assert table["cka"].isna().all()


@pytest.mark.parametrize("name", ["resnet20", "unet", "dense_block", "bert", "written_lstm", "pre_norm", "lstm"])
def test_networks(name: str) -> None:
    case = captured(name)
    skips = case.skips.in_graph()
    table = similarity(case.program, skips, drawn(case.program, 6, 6))
    assert len(table) == len({skip.merge for skip in skips}) ** 2
    same = table["id"] == table["other"]
    assert table["cka"][same].tolist() == pytest.approx([1] * same.sum(), rel=1e-9)
    matrix = table.pivot(index="id", columns="other", values="cka")
    np.testing.assert_allclose(matrix, matrix.T, rtol=1e-12)


def test_what_it_refuses(tower: tuple) -> None:
    _, program, skips = tower
    with pytest.raises(DataError, match="a batch of 3 samples: unbiased CKA needs at least 4"):
        similarity(program, skips, samples(5, 3))
    with pytest.raises(StaleSkip):
        similarity(program, captured("block").skips, samples(4))
    with pytest.raises(DataError, match="input 0 holds NaN"):
        similarity(program, skips, [(torch.full((4, 6), torch.nan, dtype=torch.double), None)])
    with pytest.raises(UsageError, match="leave such skips out"):
        similarity(captured("lstm").program, captured("lstm").skips, [])
    assert similarity(program, skips[:0], samples(4)).empty
