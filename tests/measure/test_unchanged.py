"""Measuring leaves the network as it was, its running statistics included."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import skiplab
from skiplab import measure
from skiplab.models import resnet

MEASURES: dict[str, Callable[..., Any]] = {
    "together": lambda program, skips, batches: measure.together(program, skips, batches, F.cross_entropy),
    "layers": lambda program, _, batches: measure.layers(program, batches, F.cross_entropy),
    "lengths": lambda program, skips, batches: measure.lengths(program, skips, batches, F.cross_entropy),
    "shattering": measure.shattering,
    "similarity": measure.similarity,
    "spectrum": measure.spectrum,
    "linearity": measure.linearity,
    "cost": measure.cost,
}


@pytest.mark.parametrize(
    ("name", "train"),
    [(name, train) for name in MEASURES for train in (False, True) if (name, train) != ("layers", True)],
)  # lesions refuse the training graph
def test_no_tensor_of_the_model_changes(name: str, train: bool) -> None:
    torch.manual_seed(0)
    model = resnet(8, num_classes=3, width=4)
    program = skiplab.capture(model, (torch.randn(4, 3, 8, 8),), train=train)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    batches = [(torch.randn(4, 3, 8, 8), torch.randint(0, 3, (4,))) for _ in range(2)]
    MEASURES[name](program, skiplab.find(program), batches)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
