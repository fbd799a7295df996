"""What is asked of a model: losses and errors against closed forms, exact over a part however it is batched."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import r2_score
from torch import Tensor, nn

from skiplab.data import IGNORED, DataSet, Split
from skiplab.errors import DataError
from skiplab.training.fit import Recipe, evaluate, fit
from skiplab.training.objectives import chance, check_output, task_of


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def places(seed: int, examples: int, asked: float) -> Split:
    """Three classes for each of four places, of which a share is asked; the first one always."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(3, (examples, 4), generator=generator)
    y[torch.rand(y.shape, generator=generator) >= asked] = IGNORED
    y[0, 0] = 1
    return Split(drawn(seed, examples, 2, 4), y)


def scorer() -> nn.Conv1d:
    """(N, 2, 4) to three scores for each of four places."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Conv1d(2, 3, 1)


# Oracles: place by place, in Python


def slow_classes(scores: Tensor, y: Tensor) -> tuple[float, float]:
    losses, wrong = [], []
    for row, targets in zip(scores.double().movedim(1, -1), y, strict=True):
        for place, target in zip(row.reshape(-1, row.shape[-1]), targets.reshape(-1).tolist(), strict=True):
            if target != IGNORED:
                losses.append(math.log(sum(math.exp(each) for each in place.tolist())) - float(place[target]))
                wrong.append(int(place.argmax()) != target)
    return float(np.mean(losses)), float(np.mean(wrong))


@given(st.integers(0, 99), st.integers(1, 9), st.sampled_from([0.1, 0.5, 1.0]), st.integers(1, 10))
def test_classes_of_places_are_judged_over_all_that_is_asked(seed: int, examples: int, asked: float, size: int) -> None:
    split, net = places(seed, examples, asked), scorer()
    found = evaluate(net, split, size)
    assert found == pytest.approx(slow_classes(net(split.x).detach(), split.y), rel=1e-5)


@given(st.integers(0, 99), st.integers(2, 12), st.integers(1, 13), st.sampled_from([(), (1,), (3,), (2, 2)]))
def test_values_are_judged_by_their_variance(seed: int, examples: int, size: int, shape: tuple[int, ...]) -> None:
    """scikit-learn's R², each output about its own mean, weighted by its variance; the mean over batches is not it."""
    x = drawn(seed, examples, *shape)
    split = Split(x, 2 * x + drawn(seed + 1, examples, *shape) + 5)
    loss, error = evaluate(nn.Identity(), split, size)
    ours, theirs = (each.reshape(examples, -1).double().numpy() for each in (x, split.y))
    assert loss == pytest.approx(((ours - theirs) ** 2).mean(), rel=1e-5)
    assert 1 - error == pytest.approx(r2_score(theirs, ours, multioutput="variance_weighted"), rel=1e-4)


def test_the_mean_has_error_one_and_the_truth_none() -> None:
    y = drawn(0, 50, 3) + torch.tensor([5.0, 0.0, -9.0])
    for output, error in ((y.mean(0).expand(50, 3), 1.0), (y, 0.0)):
        assert evaluate(nn.Identity(), Split(output, y), 7)[1] == pytest.approx(error, abs=1e-6)


def test_constant_values_have_no_error() -> None:
    loss, error = evaluate(nn.Identity(), Split(torch.ones(4, 2), torch.zeros(4, 2)))
    assert loss == 1.0
    assert math.isnan(error)


def test_a_part_that_asks_nothing_has_no_mean() -> None:
    split = Split(drawn(0, 2, 2, 4), torch.full((2, 4), IGNORED))
    assert all(math.isnan(each) for each in evaluate(scorer(), split))


@pytest.mark.parametrize("asked", [0.2, 1.0])
def test_the_loss_of_a_step_is_torchs(asked: float) -> None:
    split = places(1, 6, asked)
    scores = drawn(2, 6, 3, 4).requires_grad_()
    task = task_of(split)
    ours, theirs = task.loss(scores, split.y), F.cross_entropy(scores, split.y)
    assert float(ours.detach()) == pytest.approx(float(theirs.detach()), rel=1e-6)
    grads = (torch.autograd.grad(each, scores)[0] for each in (ours, theirs))
    torch.testing.assert_close(*grads)
    assert float(task.error(scores, split.y)) == pytest.approx(slow_classes(scores.detach(), split.y)[1])


def test_a_batch_that_asks_nothing_has_no_gradient() -> None:
    scores, y = drawn(0, 2, 3, 4).requires_grad_(), torch.full((2, 4), IGNORED)
    loss = task_of(places(0, 5, 0.5)).loss(scores, y)
    loss.backward()
    assert float(loss.detach()) == 0
    assert scores.grad is not None
    assert not scores.grad.any()


# Training


def dense(asked: float = 0.4) -> DataSet:
    """Which of two channels is larger, at some of four places."""
    splits = []
    for seed, examples in ((0, 50), (1, 20)):
        split = places(seed, examples, asked)
        larger = split.x.argmax(1)
        splits.append(Split(split.x, torch.where(split.y == IGNORED, IGNORED, larger)))
    return DataSet("places", *splits, classes=2)


def numbers() -> DataSet:
    """A linear map of noise."""
    turned = drawn(9, 4, 2)
    return DataSet("numbers", *(Split(x, x @ turned) for x in (drawn(0, 50, 4), drawn(1, 20, 4))), classes=None)


RECIPE = Recipe(epochs=8, batch_size=16, learning_rate=0.1)


def test_training_on_places_learns_and_its_running_means_count_them() -> None:
    data = dense()
    torch.manual_seed(0)
    run = fit(nn.Conv1d(2, 2, 1), data, RECIPE, device="cpu")
    assert run.history["test_error"].iloc[-1] < 0.2
    steps = run.steps[run.steps["epoch"] == 1]
    order = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    counts = [int((data.train.y[chosen] != IGNORED).sum()) for chosen in order.split(16)]
    for name in ("loss", "error"):
        assert run.history[f"running_{name}"].iloc[0] == pytest.approx(np.average(steps[name], weights=counts))


def test_training_on_values_learns_and_ends_near_none_of_their_variance() -> None:
    torch.manual_seed(0)
    run = fit(nn.Linear(4, 2), numbers(), replace(RECIPE, epochs=25), device="cpu")
    assert run.history["test_error"].iloc[0] > 0.1
    assert run.history["test_error"].iloc[-1] < 0.01
    steps = run.steps[run.steps["epoch"] == 1]
    mean = np.average(steps["error"], weights=[16, 16, 16, 2])
    assert run.history["running_error"].iloc[0] == pytest.approx(mean)
    variance = numbers().train.y.numpy().var(axis=0).mean()
    assert steps["error"].to_numpy() == pytest.approx(steps["loss"].to_numpy() / variance, rel=1e-5)


def test_a_step_that_asks_nothing_is_no_divergence() -> None:
    data = dense(asked=0.02)
    run = fit(nn.Conv1d(2, 2, 1), data, Recipe(epochs=2, batch_size=1), device="cpu")
    assert (run.steps["loss"] == 0).any()
    assert not run.history["running_loss"].hasnans


# What does not fit


@pytest.mark.parametrize(
    ("net", "data", "message"),
    [
        (
            nn.Conv1d(2, 1, 1),
            dense(),
            r"shape \(1, 4\), and 2 classes need \(2, 4\): .*=2",
        ),
        (nn.Sequential(nn.Flatten(), nn.Linear(8, 2)), dense(), r"shape \(2,\), and 2 classes need \(2, 4\)"),
        (nn.Linear(4, 1), numbers(), r"shape \(1,\), and its target \(2,\)"),
        (nn.Unflatten(1, (2, 2)), numbers(), r"shape \(2, 2\), and its target \(2,\)"),
        (nn.Linear(5, 2), numbers(), r"does not take the samples of numbers \(4, float32\): mat1"),
    ],
)
def test_outputs_of_a_wrong_shape(net: nn.Module, data: DataSet, message: str) -> None:
    net.register_parameter("weight_of_any_kind", nn.Parameter(torch.zeros(1)))
    with pytest.raises(DataError, match=message):
        fit(net, data, RECIPE, device="cpu")


def test_the_test_part_has_to_fit_as_well() -> None:
    x, y = drawn(0, 5, 4), drawn(1, 5, 1)
    for test, message in (
        (Split(x, y[:, 0]), r"shape \(1,\), and its target \(\)"),
        (Split(x[:, :3], y), r"does not take the samples of parts \(3, float32\): mat1"),
    ):
        with pytest.raises(DataError, match=message):
            fit(nn.Linear(4, 1), DataSet("parts", Split(x, y), test, classes=None), RECIPE, device="cpu")


def test_values_of_one_number_do_not_broadcast() -> None:
    data = DataSet("one", *(Split(drawn(i, 5, 4), drawn(i, 5)) for i in (0, 1)), classes=None)
    with pytest.raises(DataError, match=r"shape \(1,\), and its target \(\)"):
        fit(nn.Linear(4, 1), data, RECIPE, device="cpu")


def test_outputs_of_a_right_shape() -> None:
    more: list[tuple[Any, DataSet]] = [(torch.zeros(1, 7, 4), dense()), (torch.zeros(1, 2), numbers())]
    for output, data in more:
        check_output(output, data.train, data)


def test_chance_is_the_share_of_all_but_the_most_common_class() -> None:
    def split_of(*labels: int) -> Split:
        return Split(torch.zeros(len(labels)), torch.tensor(labels))

    assert chance(split_of(0, 2, 2, 2, 5)) == pytest.approx(0.4)
    assert chance(split_of(0, IGNORED, 2, 2, IGNORED)) == pytest.approx(1 / 3)
    assert chance(numbers().test) == 1.0
