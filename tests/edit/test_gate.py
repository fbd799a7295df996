import inspect
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import skiplab
from networks import Net, around, heavy
from oracles.edited import SHAPES, assert_same_network, blocks, found, written
from skiplab.edit import gate, highway
from skiplab.errors import UsageError
from skiplab.graph.interpreter import run


def opened(net: Any, x: Tensor) -> Tensor:
    """σ(Wx + b), with W over the channels alone."""
    if net.gate_weight.dim() == 2:
        return torch.sigmoid(x @ net.gate_weight.T + net.gate_bias)
    mixed = torch.einsum("nc...,dc->nd...", x, net.gate_weight.flatten(1))
    return torch.sigmoid(mixed + net.gate_bias.view(-1, *[1] * (x.dim() - 2)))


JOINS: dict[str, Any] = {
    "exclusive": lambda net, x, f: (1 - opened(net, x)) * x + opened(net, x) * f,
    "shortcut-only": lambda net, x, f: (1 - opened(net, x)) * x + f,
}


def kernel(form: str) -> tuple[int, ...]:
    return (4, 4, *[1] * (len(SHAPES[form]) - 2)) if form.startswith("conv") else (4, 4)


@pytest.mark.parametrize("form", SHAPES)
@pytest.mark.parametrize("kind", JOINS)
def test_gates_against_the_formula(form: str, kind: Any) -> None:
    program, skips = found(blocks(form), SHAPES[form])
    edited = gate(program, skips, form=kind)
    assert edited.added == {f"{i}.{name}" for i in range(3) for name in ("gate_weight", "gate_bias")}
    wanted = written(form, JOINS[kind], gate_weight=kernel(form), gate_bias=(4,))
    assert_same_network(edited.module(), wanted, torch.randn(SHAPES[form]))


def test_highway_is_the_exclusive_gate_mostly_closed() -> None:
    program, skips = found(blocks("tokens"), SHAPES["tokens"])
    edited = highway(program, skips, seed=3)
    state = edited.module().state_dict()
    assert torch.equal(state["1.gate_bias"], torch.full((4,), -1.0))
    same = gate(program, skips, bias=-1.0, seed=3)
    x = torch.randn(SHAPES["tokens"])
    assert torch.equal(run(edited, x), run(same, x))
    assert not torch.equal(run(edited, x), run(highway(program, skips, seed=4), x))
    closed = gate(program, skips, bias=-100.0)
    torch.testing.assert_close(run(closed, x), x)


def test_highway_is_found_as_gated() -> None:
    program, skips = found(blocks("vector"), (3, 4))
    again = skiplab.find(highway(program, skips))
    assert [skip.combine for skip in again] == ["gated"] * 3
    assert [skip.path for skip in again] == ["0", "1", "2"]


def test_weights_are_drawn_as_a_linear_layer_s() -> None:
    """Uniform within 1/√n of zero."""
    program, skips = found(around(lambda x, f: x + f), (3, 8))
    bound = 8**-0.5
    draws = torch.stack([gate(program, skips, seed=seed).module().state_dict()["gate_weight"] for seed in range(20)])
    assert 0.98 * bound < float(draws.max()) <= bound
    assert -bound <= float(draws.min()) < -0.98 * bound
    assert float(draws.std()) == pytest.approx(bound / 3**0.5, rel=0.05)


def test_the_state_of_random_numbers_stays() -> None:
    program, skips = found(blocks("vector"), (3, 4))
    state = torch.get_rng_state()
    highway(program, skips)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_gate_sees_what_a_projection_brings() -> None:
    model = Net(lambda net, x: net.p(x) + net.f(x), p=nn.Linear(8, 6), f=nn.Sequential(heavy(), nn.Linear(8, 6)))
    program, skips = found(model, (3, 8))
    edited = gate(program, skips.expect(1), bias=0.5)
    module = edited.module()
    x = torch.randn(2, 8)
    p, f = model.get_submodule("p")(x), model.get_submodule("f")(x)
    g = torch.sigmoid(F.linear(p, *(module.get_parameter(f"gate_{name}") for name in ("weight", "bias"))))
    torch.testing.assert_close(module(x), (1 - g) * p + g * f)


def test_two_branches_and_a_shortcut_that_comes_twice_share_one_gate() -> None:
    model = Net(lambda net, x: net.f(x) + x + (net.g(x) + x), f=heavy(), g=heavy())
    program, skips = found(model, (3, 8))
    module = gate(program, skips.expect(1)).module()
    x = torch.randn(2, 8)
    g = torch.sigmoid(F.linear(x, *(module.get_parameter(f"gate_{name}") for name in ("weight", "bias"))))
    wanted = (1 - g) * 2 * x + g * (model.get_submodule("f")(x) + model.get_submodule("g")(x))
    torch.testing.assert_close(module(x), wanted)


def test_what_cannot_be_gated() -> None:
    program, skips = found(around(lambda x, f: torch.cat((x, f), -1)), (3, 8))
    with pytest.raises(UsageError, match="is a concatenation, which has no gated form"):
        gate(program, skips)
    program, skips = found(Net(lambda net, x: (y := net.f(x)) + net.g(y) + x, f=heavy(), g=heavy()), (3, 8))
    assert len(skips) == 2
    with pytest.raises(UsageError, match="ends at the merge of another skip: gate one of the two"):
        gate(program, skips)
    program, skips = found(around(lambda x, f: (x + f).transpose(0, 1) if x.dim() == 9 else x + f), (3, 8))
    with pytest.raises(UsageError, match="form='both': choose exclusive or shortcut-only"):
        inspect.unwrap(gate)(program, skips, form="both")


def test_channels_in_a_dimension_that_no_layer_has() -> None:
    """Images whose channels have been moved between height and width."""

    class Moved(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.f = nn.Conv2d(4, 4, 1), nn.Sequential(nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 5))

        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x).transpose(1, 2)
            return y + self.f(y)

    program, skips = found(Moved(), (2, 4, 3, 5))
    with pytest.raises(UsageError, match="a gate needs channels in dimension 1 or last"):
        gate(program, skips.expect(1))
