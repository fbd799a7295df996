"""Fused recurrent operators against their cells written out."""

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import skiplab
from networks import Net, TwoInputs, linear
from skiplab import Program, Skips
from skiplab.verification import Verdict, prove
from skiplab.verification.recurrent_check import Fused, unrolled
from skiplab.verification.shortcut_function import Graph

X = torch.linspace(-1, 1, 120).reshape(3, 5, 8)

NETS: dict[str, nn.RNNBase] = {
    "lstm": nn.LSTM(8, 4),
    "batch_first": nn.LSTM(8, 4, batch_first=True),
    "deep": nn.LSTM(8, 4, num_layers=3),
    "both_ways": nn.LSTM(8, 4, num_layers=2, bidirectional=True, batch_first=True),
    "no_bias": nn.LSTM(8, 4, bias=False),
    "projected": nn.LSTM(8, 4, num_layers=2, proj_size=3, bidirectional=True),
    "projected_no_bias": nn.LSTM(8, 4, proj_size=3, bias=False),
    "gru": nn.GRU(8, 4),
    "gru_both_ways": nn.GRU(8, 4, num_layers=2, bidirectional=True, batch_first=True),
    "gru_no_bias": nn.GRU(8, 4, bias=False),
}


class Cells(nn.Module):
    """Two steps of a cell from a state that is computed from the input."""

    def __init__(self, cell: nn.Module, states: int) -> None:
        super().__init__()
        self.cell, self.states, self.start = cell, states, linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.start(x)
        state: Any = (h, h.tanh()) if self.states == 2 else h
        for _ in range(2):
            state = self.cell(x, state)
        return state[0] if self.states == 2 else state


CELLS = {
    "lstm_cell": Cells(nn.LSTMCell(8, 4), 2),
    "gru_cell": Cells(nn.GRUCell(8, 4, bias=False), 1),
}


def program_of(net: nn.Module, x: Tensor = X) -> Program:
    return skiplab.capture(net, (x,))


@pytest.mark.parametrize("name", NETS)
def test_every_layer_and_direction_is_proved(name: str) -> None:
    net = NETS[name]
    program = program_of(net)
    skips = skiplab.find(program)
    assert len(skips) == net.num_layers * (2 if net.bidirectional else 1)
    assert {skip.steps for skip in skips} == {5 if net.batch_first else 3}
    proof = prove(program, skips)
    assert proof.failures == ()
    assert proof.deviation < 1e-14


@pytest.mark.parametrize("name", CELLS)
def test_cells_are_proved(name: str) -> None:
    program = program_of(CELLS[name], X[0])
    skips = skiplab.find(program)
    assert [skip.steps for skip in skips] == [1, 1]
    assert prove(program, skips).ok


def test_the_state_s_derivative_along_the_shortcut_is_the_gate() -> None:
    """With the gate and the new content held, ∂c′/∂c is f: differentiate one step that is written out by hand."""
    cell = nn.LSTMCell(8, 4).double()
    x, h, c = torch.randn(3, 8).double(), torch.randn(3, 4).double(), torch.randn(3, 4).double()
    i, f, g, _ = (x @ cell.weight_ih.T + cell.bias_ih + h @ cell.weight_hh.T + cell.bias_hh).chunk(4, -1)
    jacobian = torch.autograd.functional.jacobian(lambda c: f.sigmoid() * c + i.sigmoid() * g.tanh(), c)
    net = TwoInputs(lambda net, x, hc: net.cell(x, tuple(hc.chunk(2, -1)))[1], cell=cell)
    program = skiplab.capture(net, (x, torch.cat((h, c), -1)))
    (skip,) = skiplab.find(program)
    way = Fused(Graph(program), skip)
    values = {node: torch.empty(0) for node in way.needed}
    bound = {**program.tensors, "x": x}
    values |= {node: bound[node.name] for node in way.needed if node.name in bound}
    states: Any = way.end.args[1]
    values |= dict(zip(states, (h, c), strict=True))
    (gate,) = unrolled(way, values).gates
    torch.testing.assert_close(jacobian.reshape(12, 12), gate.flatten().diag())


def false(net: nn.Module, **changes: Any) -> Verdict:
    program = program_of(net)
    skip = skiplab.find(program)[0]
    return prove(program, Skips([dataclasses.replace(skip, **changes)])).rows[0]


def test_a_wrong_number_of_steps_fails() -> None:
    assert false(NETS["lstm"], steps=5).reason == "3 steps, not 5"


def test_another_kind_fails() -> None:
    assert false(NETS["gru"], shortcut="identity", combine="add").reason == "the state is gated"


def test_an_elman_network_has_no_gate() -> None:
    net = Net(lambda net, x: net.l(net.r(x)[0])[0], l=nn.LSTM(4, 4), r=nn.RNN(8, 4))
    program = program_of(net)
    rnn = next(op.name for op in program.ops if op.target == "rnn_tanh")
    (skip,) = skiplab.find(program)
    (row,) = prove(program, Skips([dataclasses.replace(skip, merge=rnn)]))
    assert row.reason == f"`{rnn}` (rnn_tanh) has no gated state"


def test_a_gate_that_no_data_moves_fails() -> None:
    net = nn.GRU(8, 4)
    for name in ("weight_ih_l0", "weight_hh_l0"):
        nn.init.zeros_(net.get_parameter(name)[4:8])  # those of z
    assert false(net).reason == "the gate is the same at all points: it does not depend on the data"


def test_a_cell_of_another_form_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's GRU resets after the matrix product; the paper's, before."""

    def of_the_paper(x: Tensor, state: tuple[Tensor, ...], weights: Any, biased: bool) -> Any:
        (h,) = state
        (r_x, z_x, n_x) = (x @ weights[0].T + weights[2]).chunk(3, -1)
        (r_h, z_h, _) = (h @ weights[1].T + weights[3]).chunk(3, -1)
        r, z = (r_x + r_h).sigmoid(), (z_x + z_h).sigmoid()
        n = (n_x + (r * h) @ weights[1][8:].T + weights[3][8:]).tanh()
        return ((1 - z) * n + z * h,), z

    monkeypatch.setattr("skiplab.verification.recurrent_check._gru_step", of_the_paper)
    row = false(NETS["gru"])
    assert (row.found, row.ok) == ("nonlinear", False)
    assert row.deviation > 1e-3


def test_nan_is_never_a_proof() -> None:
    row = false(Net(lambda net, x: net.l(x / 0)[0], l=nn.LSTM(8, 4)))
    assert row.reason == "`lstm` is not finite"
