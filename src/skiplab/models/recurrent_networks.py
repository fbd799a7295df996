"""Recurrent networks: sequences of vectors in, one output per sequence or per step."""

from typing import Any, Literal, TypedDict, Unpack

from torch import Tensor, nn

from skiplab.models.cells import GRU, LSTM, RNN, Highway, MinGRU, Recurrent
from skiplab.models.readout import Readout, ReadoutMode
from skiplab.validation import known_options, require_positive


class Options(TypedDict, total=False):
    """Keyword options of all constructors in this module."""

    inputs: int
    """Values at each step: 1."""
    num_classes: int
    """Size of the output: 10."""
    width: int
    """Width of the state: 64."""
    layers: int
    """Number of layers, each on the outputs of the one before: 1."""
    readout: ReadoutMode
    """What the output is computed from: the "last" step (default), the "mean" over steps, or each of the "steps"."""


class RecurrentNet(nn.Module):
    """Recurrent layers and a linear readout: (N, T, inputs) gives (N, classes), or (N, classes, T) for "steps"."""

    def __init__(self, recurrent: Recurrent, inputs: int, head: Readout) -> None:
        super().__init__()
        self.recurrent, self.head = recurrent, head
        self.example_input_shape = (8, inputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.recurrent(x)[0])


def rnn(nonlinearity: Literal["tanh", "relu"] = "tanh", **options: Unpack[Options]) -> RecurrentNet:
    """An Elman network: the plain network of `residual_rnn`, without shortcuts in time and with the same weights."""
    return _net(RNN, options, nonlinearity=nonlinearity)


def residual_rnn(
    nonlinearity: Literal["tanh", "relu"] = "tanh", step: float = 1.0, **options: Unpack[Options]
) -> RecurrentNet:
    """A residual network in time: h′ = h + step · f(W·x + U·h + b)."""
    return _net(RNN, options, nonlinearity=nonlinearity, skip=True, step=step)


def lstm(forget_bias: float | None = 1.0, skip: bool = True, **options: Unpack[Options]) -> RecurrentNet:
    """An LSTM; with `skip=False` its cell state is i·g, and nothing is carried from step to step."""
    return _net(LSTM, options, skip=skip, forget_bias=forget_bias)


def gru(skip: bool = True, **options: Unpack[Options]) -> RecurrentNet:
    """A GRU; with `skip=False` its state is (1 − z)·n."""
    return _net(GRU, options, skip=skip)


def highway_rnn(gate_bias: float = -2.0, skip: bool = True, **options: Unpack[Options]) -> RecurrentNet:
    """A highway network in time; with `skip=False` its state is g·tanh(…)."""
    return _net(Highway, options, skip=skip, gate_bias=gate_bias)


def min_gru(skip: bool = True, **options: Unpack[Options]) -> RecurrentNet:
    """A minGRU; with `skip=False` each step depends only on its own input."""
    return _net(MinGRU, options, skip=skip)


def _net(kind: type[Recurrent], options: Options, **choices: Any) -> RecurrentNet:
    known_options(options, Options.__annotations__, "a recurrent network")
    inputs, width, classes = options.get("inputs", 1), options.get("width", 64), options.get("num_classes", 10)
    require_positive(num_classes=classes)
    recurrent = kind(inputs, width, options.get("layers", 1), **choices)
    return RecurrentNet(recurrent, inputs, Readout(width, classes, options.get("readout", "last")))
