import functools
import itertools
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skiplab.errors import UsageError
from skiplab.measure import ggn_probe
from skiplab.measure.ggn_probe import probe_of

Case = tuple[Callable[..., Tensor], Tensor, Tensor]


def floats(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.double, generator=torch.Generator().manual_seed(len(shape)))


LABELS = torch.tensor([1, 0])
POSITIONS = torch.tensor([[1, 0], [0, -100]])
CASES: dict[str, Case] = {
    "cross entropy": (F.cross_entropy, floats(2, 3), LABELS),
    "of positions": (F.cross_entropy, floats(2, 2, 2), POSITIONS.clamp(min=0)),
    "some left out": (F.cross_entropy, floats(2, 2, 2), POSITIONS),
    "others left out": (functools.partial(F.cross_entropy, ignore_index=0), floats(2, 2, 2), POSITIONS.clamp(min=0)),
    "smoothed": (functools.partial(F.cross_entropy, label_smoothing=0.3), floats(2, 3), LABELS),
    "of probabilities": (F.cross_entropy, floats(2, 3), floats(2, 3).softmax(1)),
    "squared error": (F.mse_loss, floats(2, 2, 2), floats(2, 2, 2).exp()),
    "of numbers": (F.mse_loss, floats(3), floats(3).exp()),
    "binary": (F.binary_cross_entropy_with_logits, floats(2, 3), floats(2, 3).sigmoid()),
}


@pytest.mark.parametrize("name", CASES)
def test_expectation_over_all_signs_is_the_hessian_of_each_samples_loss(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss, z, target = CASES[name]
    patterns = [torch.tensor(s).to(z).reshape(z.shape) for s in itertools.product((-1, 1), repeat=z.numel())]
    found = torch.zeros(z.numel(), z.numel(), dtype=torch.double)
    for signs in patterns:
        monkeypatch.setattr(ggn_probe, "_signs", lambda *_, signs=signs: signs)
        output = z.clone().requires_grad_()
        (v,) = torch.autograd.grad(probe_of(loss)(output, target, torch.Generator()), output)
        found += torch.outer(v.flatten(), v.flatten()) / len(patterns)

    def total(flat: Tensor) -> Tensor:
        return len(z) * loss(flat.reshape(z.shape), target)

    hessian = torch.autograd.functional.hessian(total, z.flatten())
    assert isinstance(hessian, Tensor)
    torch.testing.assert_close(found, hessian, rtol=1e-10, atol=1e-12)
    assert hessian.abs().max() > 1e-3


def test_signs_are_those_of_the_generator() -> None:
    like = torch.zeros(10_000, requires_grad=True)
    state = torch.get_rng_state()
    first, again, other = (ggn_probe._signs(like, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert set(first.tolist()) == {-1.0, 1.0}
    assert abs(first.mean()) < 0.05  # five standard deviations
    assert not first.requires_grad


@pytest.mark.parametrize(
    "loss",
    [
        lambda output, target: F.cross_entropy(output, target),
        nn.CrossEntropyLoss(),
        functools.partial(F.cross_entropy, weight=torch.ones(3)),
        functools.partial(F.mse_loss, reduction="sum"),
    ],
)
def test_of_any_other_loss_the_probe_is_asked_for(loss: Callable[..., Tensor]) -> None:
    with pytest.raises(UsageError, match=r"(?s)no probe is built in for .*give probe=function\(output, target, gen"):
        probe_of(loss)
