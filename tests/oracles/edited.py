"""Residual networks written by hand as an edit should leave them, and what an edited network is compared with."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import skiplab
from skiplab.analysis.skips import Skips
from skiplab.graph.module import ProgramModule
from skiplab.graph.program import Program
from skiplab.models import SkipConnection

Join = Callable[[Any, Tensor, Tensor], Tensor]
# form -> shape of the values, of which dimension 1 or the last has four channels
SHAPES = {"vector": (3, 4), "tokens": (3, 5, 4), "conv1d": (3, 4, 6), "conv2d": (3, 4, 6, 5), "conv3d": (3, 4, 3, 2, 3)}
CHANNELS = 4


def layer(form: str, inputs: int = CHANNELS, outputs: int = CHANNELS, stride: int = 1) -> nn.Module:
    """A convolution 3×3 for images and their like, a linear layer for the rest."""
    if not form.startswith("conv"):
        return nn.Linear(inputs, outputs)
    return getattr(nn, form.capitalize())(inputs, outputs, 3, stride, 1)


def branch(form: str) -> nn.Sequential:
    return nn.Sequential(layer(form), nn.Tanh(), layer(form))


def blocks(form: str, count: int = 3) -> nn.Sequential:
    """x + F(x), a few times."""
    torch.manual_seed(0)
    return nn.Sequential(*(SkipConnection(branch(form)) for _ in range(count)))


def found(model: nn.Module, shape: tuple[int, ...], *, train: bool = False) -> tuple[Program, Skips]:
    program = skiplab.capture(model, (torch.randn(shape, generator=torch.Generator().manual_seed(1)),), train=train)
    return program, skiplab.find(program)


class Joined(nn.Module):
    """`join(self, x, F(x))`, with parameters of its own."""

    def __init__(self, branch: nn.Module, join: Join, **parameters: Tensor) -> None:
        super().__init__()
        self.branch, self.join = branch, join
        for name, value in parameters.items():
            self.register_parameter(name, nn.Parameter(value))

    def forward(self, x: Tensor) -> Tensor:
        return self.join(self, x, self.branch(x))


def written(form: str, join: Join, count: int = 3, **shapes: tuple[int, ...]) -> nn.Sequential:
    """Blocks with random parameters of these names and shapes."""
    torch.manual_seed(2)
    parameters = [{name: torch.randn(shape) for name, shape in shapes.items()} for _ in range(count)]
    return nn.Sequential(*(Joined(branch(form), join, **each) for each in parameters))


def assert_same_network(module: ProgramModule, wanted: nn.Module, x: Tensor) -> None:
    """With the weights of the one the other has its output and its gradients, and no other names."""
    module.load_state_dict(wanted.state_dict())
    assert set(module.state_dict()) == set(wanted.state_dict())
    results = []
    for network in (module, wanted):
        network.zero_grad()
        output = network(x)
        output.square().sum().backward()
        results.append((output, {name: parameter.grad for name, parameter in network.named_parameters()}))
    (output, gradients), (wanted_output, wanted_gradients) = results
    torch.testing.assert_close(output, wanted_output, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradients, wanted_gradients, rtol=1e-4, atol=1e-5)
