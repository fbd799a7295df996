"""Recurrent networks, unrolled in time: each step is a skip connection, and cells differ in this one object.

Rumelhart, Hinton and Williams 1986 and Elman 1990 (RNN: a branch, no shortcut); Hochreiter and Schmidhuber 1997 with
the forget gate of Gers et al. 2000 (LSTM), Cho et al. 2014, arXiv:1406.1078 (GRU), Feng et al. 2024, arXiv:2410.01201,
§3.1 (minGRU), Zilly et al. 2017, arXiv:1607.03474, eq. 6-9, with depth 1 (highway): a gated shortcut.
Parameters have the names, shapes and initialization of those of `nn.RNN`, `nn.LSTM` and `nn.GRU`.
"""

import math
from collections.abc import Iterable
from functools import partial
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skiplab.errors import UsageError
from skiplab.models.skip import SkipConnection, identity
from skiplab.validation import require_one_of, require_positive

State = tuple[Tensor, ...]  # what a layer passes from step to step, (N, hidden) each; the first is its output


class ElmanUpdate(SkipConnection):
    """A step of an Elman network: the branch is f(x + U·h + b), by default without a shortcut."""

    def __init__(self, function: Any, shortcut: Any = None, combine: Any = torch.add) -> None:
        super().__init__(shortcut=shortcut, combine=combine)
        self.function = function

    def branch(self, h: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return self.function(x + F.linear(h, weight, bias))


class GatedInput(SkipConnection):
    """A gated step without its shortcut: the branch is write · new, and the old state is lost."""

    shortcut = None

    def branch(self, _state: Tensor, _keep: Tensor, write: Tensor, new: Tensor) -> Tensor:
        return write * new


class GatedUpdate(GatedInput):
    """A gated step: keep · state + write · new. The gated cells differ in how they compute keep, write and new."""

    def shortcut(self, state: Tensor, keep: Tensor, *_written: Tensor) -> Tensor:
        return keep * state


class Recurrent(nn.Module):
    """Layers of cells over (N, T, inputs), or (T, N, inputs) without `batch_first`.

    Returns (output, state) like torch's own modules: the last layer's output at every step, and the state of every
    layer after the last step, (layers, N, hidden). `forward` takes an initial state of the same form, by default
    zeros. `skip=False` removes the shortcut from every step and nothing else.
    """

    parts: ClassVar[int]  # how many blocks of `hidden_size` rows each weight matrix has
    states: ClassVar[int] = 1
    feeds_back: ClassVar[bool] = True  # whether gates and candidate depend on the state

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, batch_first: bool = True, skip: bool = True
    ) -> None:
        super().__init__()
        require_positive(inputs=input_size, width=hidden_size, layers=num_layers)
        require_one_of("skip", skip, (True, False))
        self.hidden_size, self.batch_first = hidden_size, batch_first
        self.cells = nn.ModuleList(self.cell(skip) for _ in range(num_layers))
        rows = self.parts * hidden_size
        for layer in range(num_layers):
            columns = hidden_size if layer else input_size
            shapes = {"weight_ih": (rows, columns), "weight_hh": (rows, hidden_size), "bias_ih": rows, "bias_hh": rows}
            for name, shape in shapes.items():
                if self.feeds_back or name.endswith("ih"):
                    self.register_parameter(f"{name}_l{layer}", nn.Parameter(torch.empty(shape)))
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -1 / math.sqrt(hidden_size), 1 / math.sqrt(hidden_size))

    def cell(self, skip: bool) -> SkipConnection:
        """The skip connection of a layer's steps."""
        return GatedUpdate() if skip else GatedInput()

    def project(self, x: Tensor, weight: Tensor, bias: Tensor) -> Iterable[Any]:
        """The input's part of each step, (N, parts · hidden), in one matrix product for all steps."""
        return F.linear(x, weight, bias).unbind(1)

    def advance(self, cell: nn.Module, x: Any, state: State, *back: Tensor) -> State:
        """The state after one step, from the input's part of the step; `back` are the weight and bias of the state."""
        raise NotImplementedError

    def forward(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        x = x if self.batch_first else x.transpose(0, 1)
        if x.shape[1] == 0:
            raise UsageError("a sequence of 0 steps: give sequences of at least one")
        ends = []
        for layer, cell in enumerate(self.cells):
            now, outputs = self._start(x, state, layer), []
            back = [self.get_parameter(f"{n}_l{layer}") for n in ("weight_hh", "bias_hh")] if self.feeds_back else []
            weight, bias = (self.get_parameter(f"{n}_l{layer}") for n in ("weight_ih", "bias_ih"))
            for x_t in self.project(x, weight, bias):
                now = self.advance(cell, x_t, now, *back)
                outputs.append(now[0])
            x = torch.stack(outputs, 1)
            ends.append(now)
        last = tuple(torch.stack(layers) for layers in zip(*ends, strict=True))
        return x if self.batch_first else x.transpose(0, 1), last if self.states > 1 else last[0]

    def _start(self, x: Tensor, state: Any, layer: int) -> State:
        if state is None:
            # not `len(x)`: Python makes it an int, and a capture would then fix the batch size
            return (x.new_zeros(x.shape[0], self.hidden_size),) * self.states
        return tuple(each[layer] for each in (state if self.states > 1 else (state,)))

    def extra_repr(self) -> str:
        return f"hidden_size={self.hidden_size}, batch_first={self.batch_first}"


class RNN(Recurrent):
    """h′ = f(W·x + U·h + b) with f tanh or ReLU; with `skip` a residual network in time, h′ = h + step · f(…).

    Without `skip` it equals `nn.RNN`. A `step` below 1 is a step of Euler's method for dh/dt = f(…) (Chang et al. 2019,
    arXiv:1902.09689, §3).
    """

    parts = 1

    def __init__(
        self,
        *sizes: int,
        nonlinearity: Literal["tanh", "relu"] = "tanh",
        batch_first: bool = True,
        skip: bool = False,
        step: float = 1.0,
    ) -> None:
        require_one_of("nonlinearity", nonlinearity, ("tanh", "relu"))
        self.function = torch.tanh if nonlinearity == "tanh" else torch.relu
        self.step = step
        super().__init__(*sizes, batch_first=batch_first, skip=skip)

    def cell(self, skip: bool) -> SkipConnection:
        return ElmanUpdate(self.function, identity if skip else None, partial(torch.add, alpha=self.step))

    def advance(self, cell: nn.Module, x: Tensor, state: State, *back: Tensor) -> State:
        return (cell(state[0], x, *back),)


class LSTM(Recurrent):
    """c′ = f·c + i·g and h = o · tanh(c′), with gates and candidate from W·x + U·h + b: equals `nn.LSTM`.

    `forget_bias`: initial sum of the two biases of the forget gate; None leaves torch's initialization. With 1 an LSTM
    carries its state from the start (Jozefowicz et al. 2015, "An Empirical Exploration of Recurrent Network
    Architectures", §2.2).
    """

    parts, states = 4, 2

    def __init__(
        self, *sizes: int, batch_first: bool = True, skip: bool = True, forget_bias: float | None = None
    ) -> None:
        super().__init__(*sizes, batch_first=batch_first, skip=skip)
        if forget_bias is not None:
            for name, parameter in self.named_parameters():
                if name.startswith("bias"):
                    forget = parameter.detach()[self.hidden_size : 2 * self.hidden_size]
                    forget.fill_(forget_bias if name.startswith("bias_ih") else 0.0)

    def advance(self, cell: nn.Module, x: Tensor, state: State, *back: Tensor) -> State:
        h, c = state
        i, f, g, o = (x + F.linear(h, *back)).chunk(4, -1)
        c = cell(c, torch.sigmoid(f), torch.sigmoid(i), torch.tanh(g))
        return torch.sigmoid(o) * torch.tanh(c), c


class GRU(Recurrent):
    """h′ = z·h + (1 − z)·n, n = tanh(W·x + r·(U·h + b)): equals `nn.GRU`."""

    parts = 3

    def advance(self, cell: nn.Module, x: Tensor, state: State, *back: Tensor) -> State:
        (h,) = state
        (x_r, x_z, x_n), (h_r, h_z, h_n) = x.chunk(3, -1), F.linear(h, *back).chunk(3, -1)
        r, z = torch.sigmoid(x_r + h_r), torch.sigmoid(x_z + h_z)
        return (cell(h, z, 1 - z, torch.tanh(x_n + r * h_n)),)


class Highway(Recurrent):
    """h′ = (1 − g)·h + g·tanh(W·x + U·h + b), g = σ(V·x + R·h + a): a highway layer at each step, with shared weights.

    `gate_bias`: initial sum of the two biases of g; below zero the state is carried (Zilly et al. 2017, §5).
    """

    parts = 2

    def __init__(self, *sizes: int, batch_first: bool = True, skip: bool = True, gate_bias: float = -2.0) -> None:
        super().__init__(*sizes, batch_first=batch_first, skip=skip)
        for name, parameter in self.named_parameters():
            if name.startswith("bias"):
                parameter.detach()[: self.hidden_size].fill_(gate_bias if name.startswith("bias_ih") else 0.0)

    def advance(self, cell: nn.Module, x: Tensor, state: State, *back: Tensor) -> State:
        (h,) = state
        g, new = (x + F.linear(h, *back)).chunk(2, -1)
        g = torch.sigmoid(g)
        return (cell(h, 1 - g, g, torch.tanh(new)),)


class MinGRU(Recurrent):
    """h′ = (1 − z)·h + z·n, with z = σ(V·x + a) and n = W·x + b of the input alone: Feng et al. 2024, §3.1.

    `weight_ih` holds the gate, then the candidate. A step is linear in the state.
    """

    parts, feeds_back = 2, False

    def project(self, x: Tensor, weight: Tensor, bias: Tensor) -> Iterable[tuple[Tensor, Tensor]]:
        both = zip(weight.chunk(2), bias.chunk(2), strict=True)
        z, new = (F.linear(x, *each) for each in both)  # two weight layers, as published
        return zip(torch.sigmoid(z).unbind(1), new.unbind(1), strict=True)

    def advance(self, cell: nn.Module, x: tuple[Tensor, Tensor], state: State, *_back: Tensor) -> State:
        z, new = x
        return (cell(state[0], 1 - z, z, new),)
