"""A network captured and linted in one step."""

from typing import Any

import torch
from torch import Tensor, nn

import skiplab
from skiplab.linter import Findings, lint


def linted(model: nn.Module, *inputs: Tensor, train: bool = False, **options: Any) -> Findings:
    """What `lint` finds in a network that takes (3, 8), or else the inputs given."""
    torch.manual_seed(0)
    return lint(skiplab.capture(model, inputs or (torch.randn(3, 8),), train=train), **options)
