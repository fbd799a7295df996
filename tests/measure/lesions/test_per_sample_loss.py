from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from skiplab.errors import UsageError
from skiplab.measure.lesions.per_sample_loss import losses

N = 5


@pytest.fixture
def given() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(N, 3, dtype=torch.double), torch.randint(0, 3, (N,))


def errors(output: Tensor, target: Tensor) -> Tensor:
    return (output.argmax(1) != target).double().mean()


def looked_at(output: Tensor, target: Tensor) -> Tensor:
    """The same as cross entropy, in a way that cannot be batched."""
    total = 0.0
    for row, label in zip(output.log_softmax(1).tolist(), target.tolist(), strict=True):
        total -= row[label]
    return torch.tensor(total / len(output))


@pytest.mark.parametrize("function", [F.cross_entropy, errors, looked_at])
def test_against_each_sample_alone(given: tuple[Tensor, Tensor], function: Any) -> None:
    output, target = given
    means, samples = losses([function], output, target, N)
    assert float(means) == float(function(output, target))
    wanted = [float(function(output[i : i + 1], target[i : i + 1])) for i in range(N)]
    assert samples is not None
    assert samples[:, 0].tolist() == pytest.approx(wanted, rel=1e-6)


def test_one_value_a_sample_is_taken_as_it_is(given: tuple[Tensor, Tensor]) -> None:
    def loss(output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(output, target, reduction="none")

    means, samples = losses([loss, errors], *given, N)
    assert samples is not None
    assert torch.equal(samples[:, 0], loss(*given))
    assert float(means[0]) == pytest.approx(float(F.cross_entropy(*given)), rel=1e-12)


def test_outputs_and_targets_may_hold_several_tensors_and_none(given: tuple[Tensor, Tensor]) -> None:
    output, target = given

    def loss(output: dict, target: tuple) -> Tensor:
        logits, scale = output["logits"], target[1]
        return scale * F.cross_entropy(logits, target[0]) if output["nothing"] is None else logits.mean()

    scale = torch.tensor(2.0)
    _, samples = losses([loss], {"logits": output, "nothing": None}, (target, scale), N)
    assert samples is not None
    assert samples[:, 0].tolist() == pytest.approx((2 * F.cross_entropy(output, target, reduction="none")).tolist())


def weighted(output: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(output, target, weight=torch.tensor([1.0, 2.0, 9.0], dtype=torch.double))


def summed(output: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(output, target, reduction="sum")


def contrasting(output: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(output @ output.T, torch.arange(len(output)))


def needs_two(output: Tensor, target: Tensor) -> Tensor:
    if len(output) < 2:
        raise ValueError("give more samples")
    return F.cross_entropy(output, target)


@pytest.mark.parametrize("function", [weighted, summed, contrasting, needs_two])
def test_what_is_no_mean_over_samples_has_none(given: tuple[Tensor, Tensor], function: Any) -> None:
    means, samples = losses([F.cross_entropy, function], *given, N)
    assert samples is None
    assert means.tolist() == [float(F.cross_entropy(*given)), float(function(*given))]


def test_ignored_targets_are_a_weight_too(given: tuple[Tensor, Tensor]) -> None:
    """Sequences of unequal length: the batch's mean is over tokens, and not over the samples' means."""
    output, target = torch.randn(N, 3, 4, dtype=torch.double), torch.randint(0, 3, (N, 4))
    assert losses([F.cross_entropy], output, target, N)[1] is not None
    target[0, 1:] = -100
    assert losses([F.cross_entropy], output, target, N)[1] is None


def test_an_output_that_is_no_tensor_of_samples() -> None:
    means, samples = losses([lambda output, _: output.sum()], torch.tensor(3.0), None, N)
    assert (float(means), samples) == (3, None)


def test_what_overflows_stays(given: tuple[Tensor, Tensor]) -> None:
    output, target = given
    output[1, target[1]] = -torch.inf
    means, samples = losses([F.cross_entropy], output, target, N)
    assert samples is not None
    assert means.isinf().all()
    assert samples[:, 0].isinf().tolist() == [False, True, False, False, False]


def test_single_precision_is_equal_up_to_its_rounding() -> None:
    torch.manual_seed(0)
    output, target = torch.randn(1000, 3), torch.randint(0, 3, (1000,))
    assert losses([F.cross_entropy], output, target, 1000)[1] is not None
    assert losses([F.cross_entropy], output.bfloat16(), target, 1000)[1] is not None


def test_a_loss_of_another_shape(given: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(UsageError, match=r"the loss of 5 samples has shape \(5, 3\): return the batch's mean, or one"):
        losses([lambda output, _: output], *given, N)
