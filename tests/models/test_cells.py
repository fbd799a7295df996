"""Unrolled cells against torch's own modules with the same weights, and against formulas written step by step."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from skiplab import capture, find
from skiplab.errors import UsageError
from skiplab.graph.interpreter import run
from skiplab.measure import lesion
from skiplab.models import gru, highway_rnn, lstm, min_gru, residual_rnn, rnn
from skiplab.models.cells import GRU, LSTM, RNN, Highway, MinGRU

THEIRS = {
    "tanh": (nn.RNN, RNN, {"nonlinearity": "tanh"}),
    "relu": (nn.RNN, RNN, {"nonlinearity": "relu"}),
    "lstm": (nn.LSTM, LSTM, {}),
    "gru": (nn.GRU, GRU, {}),
}
BUILD = {"rnn": rnn, "residual_rnn": residual_rnn, "lstm": lstm, "gru": gru, "highway": highway_rnn, "min_gru": min_gru}


@pytest.mark.parametrize("name", THEIRS)
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_equals_torchs(name: str, layers: int, batch_first: bool, dtype: torch.dtype, tolerance: float) -> None:
    """Outputs and states, from zeros and from states given; and gradients."""
    reference, ours, options = THEIRS[name]
    reference = reference(3, 5, layers, batch_first=batch_first, dtype=dtype, **options)
    net = ours(3, 5, layers, batch_first=batch_first, **options).to(dtype)
    net.load_state_dict(reference.state_dict(), strict=True)
    reference.load_state_dict(net.state_dict(), strict=True)
    x, drawn = torch.randn(4, 4, 3, dtype=dtype), torch.randn(2, layers, 4, 5, dtype=dtype)
    for state in (None, tuple(drawn) if name == "lstm" else drawn[0]):
        results = [flat(model(x, state)) for model in (net, reference)]
        torch.testing.assert_close(*results, rtol=tolerance, atol=tolerance)
        for result in results:
            torch.cat([each.flatten() for each in result]).square().sum().backward()
    gradients = [{n: p.grad for n, p in model.named_parameters()} for model in (net, reference)]
    torch.testing.assert_close(*gradients, rtol=100 * tolerance, atol=100 * tolerance)


def flat(result: Any) -> list[Tensor]:
    output, state = result
    return [output, *(state if isinstance(state, tuple) else (state,))]


@pytest.mark.parametrize("name", THEIRS)
def test_draws_torchs_weights_from_the_same_seed(name: str) -> None:
    reference, ours, options = THEIRS[name]
    states = []
    for kind in (reference, ours):
        with torch.random.fork_rng():
            torch.manual_seed(3)
            states.append(kind(3, 5, 2, **options).state_dict())
    assert list(states[0]) == list(states[1])
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


@given(st.integers(1, 6), st.sampled_from([1.0, 0.25]), st.booleans(), st.booleans())
def test_the_residual_rnn_by_hand(steps: int, step: float, relu: bool, skip: bool) -> None:
    function = torch.relu if relu else torch.tanh
    net = RNN(2, 3, nonlinearity="relu" if relu else "tanh", skip=skip, step=step).double()
    x, p = torch.randn(4, steps, 2, dtype=torch.float64), net.state_dict()
    h, expected = torch.zeros(4, 3, dtype=torch.float64), []
    for t in range(steps):
        new = function(x[:, t] @ p["weight_ih_l0"].T + h @ p["weight_hh_l0"].T + p["bias_ih_l0"] + p["bias_hh_l0"])
        h = h + step * new if skip else new
        expected.append(h)
    torch.testing.assert_close(net(x)[0], torch.stack(expected, 1), rtol=1e-12, atol=1e-12)


@given(st.integers(1, 6), st.booleans())
def test_the_min_gru_by_hand(steps: int, skip: bool) -> None:
    net = MinGRU(2, 3, skip=skip).double()
    x, p = torch.randn(4, steps, 2, dtype=torch.float64), net.state_dict()
    assert list(p) == ["weight_ih_l0", "bias_ih_l0"]
    (to_z, to_n), (a, b) = p["weight_ih_l0"].chunk(2), p["bias_ih_l0"].chunk(2)
    h = torch.zeros(4, 3, dtype=torch.float64)
    for t in range(steps):
        z, n = torch.sigmoid(x[:, t] @ to_z.T + a), x[:, t] @ to_n.T + b
        h = (1 - z) * h * skip + z * n
    torch.testing.assert_close(net(x)[1][0], h, rtol=1e-12, atol=1e-12)


@given(st.integers(1, 6), st.booleans())
def test_the_highway_by_hand(steps: int, skip: bool) -> None:
    net = Highway(2, 3, skip=skip).double()
    x, p = torch.randn(4, steps, 2, dtype=torch.float64), net.state_dict()
    h = torch.zeros(4, 3, dtype=torch.float64)
    for t in range(steps):
        both = x[:, t] @ p["weight_ih_l0"].T + h @ p["weight_hh_l0"].T + p["bias_ih_l0"] + p["bias_hh_l0"]
        g = torch.sigmoid(both[:, :3])
        h = (1 - g) * h * skip + g * torch.tanh(both[:, 3:])
    torch.testing.assert_close(net(x)[1][0], h, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_without_shortcuts_only_the_carried_part_is_missing(name: str) -> None:
    """By hand, from torch's own cells' formulas with the kept part left out."""
    net = {"lstm": LSTM, "gru": GRU}[name](2, 3, skip=False).double()
    x, p = torch.randn(4, 5, 2, dtype=torch.float64), net.state_dict()
    h = torch.zeros(4, 3, dtype=torch.float64)
    for t in range(5):
        given = x[:, t] @ p["weight_ih_l0"].T + p["bias_ih_l0"]
        back = h @ p["weight_hh_l0"].T + p["bias_hh_l0"]
        if name == "lstm":
            i, _, g, o = (given + back).chunk(4, -1)
            h = o.sigmoid() * torch.tanh(i.sigmoid() * g.tanh())
        else:
            r, z = (given + back)[:, :6].sigmoid().chunk(2, -1)
            h = (1 - z) * torch.tanh(given[:, 6:] + r * back[:, 6:])
    torch.testing.assert_close(net(x)[0][:, -1], h, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("bias", [1.0, -2.0])
def test_biases_of_forget_and_highway_gates(bias: float) -> None:
    """Together, in every layer, and of these gates alone."""
    for net, gate in ((LSTM(2, 3, 2, forget_bias=bias), slice(3, 6)), (Highway(2, 3, 2, gate_bias=bias), slice(0, 3))):
        for layer in ("l0", "l1"):
            both = net.get_parameter(f"bias_ih_{layer}") + net.get_parameter(f"bias_hh_{layer}")
            assert torch.equal(both[gate], torch.full((3,), bias))
            rest = torch.ones(len(both), dtype=torch.bool)
            rest[gate] = False
            assert torch.all(both[rest].abs() < 2 / 3**0.5)
            assert len(set(both[rest].tolist())) == int(rest.sum())


def test_the_lstm_of_the_constructors_remembers_from_the_start() -> None:
    biases = lstm(width=3).state_dict()
    assert torch.equal((biases["recurrent.bias_ih_l0"] + biases["recurrent.bias_hh_l0"])[3:6], torch.ones(3))


@pytest.mark.parametrize("name", BUILD)
@pytest.mark.parametrize("layers", [1, 2])
def test_networks_answer_as_tasks_ask(name: str, layers: int) -> None:
    build, x = BUILD[name], torch.randn(4, 6, 3)
    nets = {asked: build(inputs=3, num_classes=5, width=4, layers=layers, readout=asked) for asked in ("last", "steps")}
    assert nets["last"].example_input_shape == (8, 3)
    nets["last"].load_state_dict(nets["steps"].state_dict())
    logits = nets["steps"](x)
    assert logits.shape == (4, 5, 6)
    torch.testing.assert_close(nets["last"](x), logits[..., -1])
    F.cross_entropy(logits, torch.full((4, 6), 2)).backward()
    gradients = [p.grad for p in nets["steps"].parameters()]
    assert all(gradient is not None and gradient.any() for gradient in gradients)
    assert build(inputs=3, num_classes=1)(x).shape == (4, 1)


@pytest.mark.parametrize("name", BUILD)
def test_measures_take_another_batch_than_was_captured(name: str) -> None:
    """One lesion a step but the first, whose state is zero."""
    net = BUILD[name](width=4)
    program = capture(net, (torch.randn(2, 3, 1),))
    assert program.dynamic_batch
    x = torch.randn(8, 3, 1)
    torch.testing.assert_close(run(program, x), net(x))
    table = lesion(program, find(program), [(x, torch.zeros(8).long())], F.cross_entropy)
    assert len(table) == (0 if name == "rnn" else 3 - 1)
    assert table["loss"].notna().all()


@pytest.mark.parametrize("name", BUILD)
@pytest.mark.parametrize("batch_first", [True, False])
def test_a_sequence_without_steps_is_told(name: str, batch_first: bool) -> None:
    net = BUILD[name](width=4)
    net.recurrent.batch_first = batch_first
    with pytest.raises(UsageError, match="a sequence of 0 steps"):
        net(torch.randn((2, 0, 1) if batch_first else (0, 2, 1)))


@pytest.mark.parametrize("name", [name for name in BUILD if name != "rnn"])
def test_the_twin_has_the_same_weights(name: str) -> None:
    twin = rnn() if name == "residual_rnn" else BUILD[name](skip=False)  # type: ignore[call-arg]
    twin.load_state_dict(BUILD[name]().state_dict(), strict=True)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: gru(width=0), "width=0"),
        (lambda: gru(inputs=0), "inputs=0"),
        (lambda: gru(layers=0), "layers=0"),
        (lambda: gru(layers=1.5), "layers=1.5: give a whole number"),  # type: ignore[arg-type]
        (lambda: gru(num_classes=0), "num_classes=0"),
        (lambda: gru(readout="first"), "readout='first'"),  # type: ignore[arg-type]
        (lambda: gru(heads=2), r"\['heads'\].*layers"),  # type: ignore[call-arg]
        (lambda: gru(skip=None), "skip=None"),  # type: ignore[arg-type]
        (lambda: rnn("gelu"), "nonlinearity='gelu'"),  # type: ignore[arg-type]
    ],
)
def test_requests_that_make_no_sense(build: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build()
