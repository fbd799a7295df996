"""Errors by zone, counted pixel by pixel."""

import math

import pytest
import torch
from torch import Tensor

from skiplab.data import Split, canvases, distances
from skiplab.study.segmentation_errors import balanced_errors, errors_by_zone, intersection_over_union


def as_scores(answer: Tensor) -> Tensor:
    """A network's output (N, 2, H, W) that gives this answer."""
    return torch.nn.functional.one_hot(answer, 2).movedim(-1, 1).double()


def drawn() -> tuple[Tensor, Tensor]:
    """Targets of real canvases, and an answer that is wrong in a fifth of the pixels."""
    y = canvases(size=20, count=8, digits=1, classes="foreground").train.y
    wrong = torch.rand(y.shape, generator=torch.Generator().manual_seed(0)) < 0.2
    return y, (y + wrong) % 2


@pytest.mark.parametrize("edge", [True, False])
def test_the_mean_over_canvases_is_the_share_of_all_pixels_of_each_class(edge: bool) -> None:
    y, answer = drawn()
    split = Split(torch.zeros(len(y), 1), y)
    error = balanced_errors(split).edge if edge else balanced_errors(split).inside
    shares = []
    for label in (0, 1):
        hits = [
            bool(answer[i, j, k] != label)
            for i, j, k in torch.nonzero(y == label).tolist()
            if bool((y[i, max(j - 1, 0) : j + 2, max(k - 1, 0) : k + 2] != label).any()) == edge
        ]
        shares.append(sum(hits) / len(hits))
    values = error(as_scores(answer), y)
    assert values.shape == (len(y),)
    assert float(values.mean()) == pytest.approx(sum(shares) / 2)


@pytest.mark.parametrize("same", [0, 1])
def test_whatever_says_the_same_everywhere_is_wrong_on_half(same: int) -> None:
    y, _ = drawn()
    for error in balanced_errors(Split(torch.zeros(len(y), 1), y)):
        assert float(error(as_scores(torch.full_like(y, same)), y).mean()) == pytest.approx(0.5)


def test_zones_together_are_all_pixels_and_all_that_is_wrong() -> None:
    y, answer = drawn()
    table = errors_by_zone(answer, y)
    assert table["pixels"].sum() == y.numel()
    wrong = (table["pixels"] * table["wrong"].fillna(0)).sum()
    assert wrong == pytest.approx(int((answer != y).sum()))
    edge = table[(table["kind"] == "digit") & (table["distance"] == 1)].iloc[0]
    zone = (y == 1) & (distances(y, 3) == 1)
    assert edge["wrong"] == pytest.approx(float((answer[zone] == 0).double().mean()))


def test_overlap_by_hand() -> None:
    y = torch.tensor([[[0, 1, 1], [0, 1, 0]]])
    answer = torch.tensor([[[1, 1, 0], [0, 1, 0]]])
    assert intersection_over_union(answer, y) == pytest.approx(2 / 4)
    assert intersection_over_union(y, y) == 1
    assert math.isnan(intersection_over_union(torch.zeros_like(y), torch.zeros_like(y)))
