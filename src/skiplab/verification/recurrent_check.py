"""Fused recurrent operators, compared with their cells written as gated sums.

LSTM: c′ = f·c + i·g (Hochreiter and Schmidhuber 1997; Gers et al. 2000). GRU: h′ = (1 − z)·n + z·h (Cho et al.
2014). If the written cell gives the outputs of the operator, the state's shortcut past a step is its product with the
gate f or z. Then only the gate is left to check: it must depend on the data.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.nn import functional as F

from skiplab.analysis.skips import Skip
from skiplab.graph.ops import op_info, operator_name
from skiplab.graph.torch_compat import schema_of
from skiplab.verification.jvp_check import TOLERANCE, NotFiniteError, largest, relative
from skiplab.verification.proof import Verdict
from skiplab.verification.shortcut_function import Graph, NoRouteError, Values

State = tuple[Tensor, ...]  # (h,) or (h, c), each (samples, width)
Weights = Sequence[Tensor]  # of one layer and direction: w_ih, w_hh, and optionally b_ih, b_hh, w_hr
Step = Callable[[Tensor, State, Weights, bool], tuple[State, Tensor]]


class Fused:
    """A skip inside one recurrent operator."""

    def __init__(self, graph: Graph, skip: Skip) -> None:
        self.end = graph.node(skip.merge)
        self.name = operator_name(self.end.target)
        if op_info(self.name).gated_cell is None:
            raise NoRouteError(f"`{skip.merge}` ({self.name}) has no gated state")
        self.step: Step = _lstm_step if self.name.startswith("lstm") else _gru_step

    @property
    def needed(self) -> set[Node]:
        return {self.end, *self.end.all_input_nodes}

    def arguments(self, values: Values) -> dict[str, Any]:
        """The operator's arguments by name, with defaults."""
        schema = schema_of(self.end.target).arguments
        args, kwargs = torch.fx.map_arg((self.end.args, self.end.kwargs), lambda node: values[node])
        given = dict(zip((a.name for a in schema), args, strict=False)) | dict(kwargs)
        return {a.name: given.get(a.name, a.default_value if a.has_default_value() else None) for a in schema}


@dataclass(frozen=True, slots=True)
class Unrolled:
    """A recurrent operator, computed step by step.

    Attributes:
        outputs: its outputs.
        gates: for each layer and direction, the gate of all steps.
        steps: number of steps.
    """

    outputs: tuple[Tensor, ...]
    gates: tuple[Tensor, ...]
    steps: int


def check_fused(skip: Skip, way: Fused, points: Sequence[Values]) -> Verdict:
    """The verdict on the gated state of one layer; the outputs of its operator depend on all layers."""
    written = [unrolled(way, values) for values in points]
    deviations = []
    for mine, values in zip(written, points, strict=True):
        own = values[way.end]
        for a, b in zip(mine.outputs, own if isinstance(own, (tuple, list)) else (own,), strict=True):
            if not bool(b.isfinite().all()):
                raise NotFiniteError(f"`{skip.merge}` is not finite")
            deviations.append(relative(a - b, b))
    deviation = largest(deviations)
    first = written[0].gates
    change = min(max(relative(w.gates[k] - gate, gate) for w in written[1:]) for k, gate in enumerate(first))
    found = "nonlinear" if not deviation <= TOLERANCE else "gated" if change > TOLERANCE else "resample"
    reason = ""
    if found == "nonlinear":
        reason = "the operator is not the gated sum of its cell"
    elif found == "resample":
        reason = "the gate is the same at all points: it does not depend on the data"
    elif (skip.combine, skip.shortcut) != ("gated", "gated"):
        reason = "the state is gated"
    elif skip.steps != written[0].steps:
        reason = f"{written[0].steps} steps, not {skip.steps}"
    return Verdict(skip.id, skip.shortcut, found, deviation, not reason, reason)


def unrolled(way: Fused, values: Values) -> Unrolled:
    """The operator, computed step by step."""
    arguments = way.arguments(values)
    if way.name.endswith("_cell"):
        return _cell(way.step, arguments)
    if "batch_sizes" in arguments:  # `torch.export` cannot capture these
        raise NoRouteError(f"`{way.end.name}` runs on packed sequences, which the written cell does not take")
    return _padded(way.step, arguments)


def _cell(step: Step, arguments: Mapping[str, Any]) -> Unrolled:
    weights = [arguments[name] for name in ("w_ih", "w_hh", "b_ih", "b_hh") if arguments[name] is not None]
    state, gate = step(arguments["input"], _states(arguments["hx"]), weights, len(weights) > 2)
    return Unrolled(state, (gate,), 1)


def _padded(step: Step, arguments: Mapping[str, Any]) -> Unrolled:
    value = arguments["input"]
    first = arguments["batch_first"] and value.ndim == 3
    x = value.transpose(0, 1) if first else value
    output, finals, gates = _layers(step, x, _states(arguments["hx"]), arguments)
    output = output.transpose(0, 1) if first else output
    return Unrolled((output, *finals), gates, x.shape[0])


def _layers(
    step: Step, x: Tensor, states: State, arguments: Mapping[str, Any]
) -> tuple[Tensor, State, tuple[Tensor, ...]]:
    """All layers and directions on x (steps, samples, width): the outputs, the final states, the gates."""
    directions = 2 if arguments["bidirectional"] else 1
    count = arguments["num_layers"] * directions
    params = arguments["params"]
    each = len(params) // count
    finals, gates = [], []
    for layer in range(arguments["num_layers"]):
        outputs = []
        for k in range(layer * directions, (layer + 1) * directions):
            state: State = tuple(s[k] for s in states)
            hidden, gate = [], []
            times = range(len(x)) if k % directions == 0 else range(len(x) - 1, -1, -1)
            for t in times:
                state, g = step(x[t], state, params[k * each : (k + 1) * each], arguments["has_biases"])
                hidden.append(state[0])
                gate.append(g)
            outputs.append(torch.stack(hidden if k % directions == 0 else hidden[::-1]))
            finals.append(state)
            gates.append(torch.stack(gate))
        x = torch.cat(outputs, -1)
    return x, tuple(torch.stack(final) for final in zip(*finals, strict=True)), tuple(gates)


def _states(hx: Tensor | Sequence[Tensor]) -> State:
    return (hx,) if isinstance(hx, Tensor) else tuple(hx)


def _sums(x: Tensor, h: Tensor, weights: Weights, biased: bool) -> tuple[Tensor, Tensor]:
    """The parts of the gates that come from the input and from the state."""
    of_x, of_h = weights[2:4] if biased else (None, None)
    return F.linear(x, weights[0], of_x), F.linear(h, weights[1], of_h)


def _lstm_step(x: Tensor, state: State, weights: Weights, biased: bool) -> tuple[State, Tensor]:
    h, c = state
    of_x, of_h = _sums(x, h, weights, biased)
    i, f, g, o = (of_x + of_h).chunk(4, -1)
    f = f.sigmoid()
    c = f * c + i.sigmoid() * g.tanh()
    h = o.sigmoid() * c.tanh()
    if len(weights) == 3 + 2 * biased:  # a projection of the output
        h = F.linear(h, weights[-1])
    return (h, c), f


def _gru_step(x: Tensor, state: State, weights: Weights, biased: bool) -> tuple[State, Tensor]:
    (h,) = state
    of_x, of_h = _sums(x, h, weights, biased)
    (r_x, z_x, n_x), (r_h, z_h, n_h) = of_x.chunk(3, -1), of_h.chunk(3, -1)
    z = (z_x + z_h).sigmoid()
    n = (n_x + (r_x + r_h).sigmoid() * n_h).tanh()
    return ((1 - z) * n + z * h,), z
