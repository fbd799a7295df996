import pytest
import torch
from torch import Tensor, nn
from torch.autograd.functional import jacobian

import skiplab
from cases import captured
from networks import Net, linear
from oracles.drawn import drawn
from skiplab.graph.interpreter import Execution
from skiplab.measure.jacobian import Jacobian


@pytest.mark.parametrize("name", ["unet", "bert", "pre_norm", "written_lstm", "lstm", "dense_block", "resnet20", "t5"])
def test_products_agree_with_each_other_and_with_differences(name: str) -> None:
    """u·(Jv) = (Jᵀu)·v, and f(x + εv) − f(x − εv) = 2ε·Jv: of the last skip of each network, in single precision."""
    case = captured(name)
    skip = case.skips.in_graph()[-1]
    args, _ = drawn(case.program, 1)[0]
    args, kwargs = ((), args) if isinstance(args, dict) else (args, {})
    with torch.no_grad():
        execution = Execution(case.program, args, kwargs)
        x = execution.value(skip.fork)
        j = Jacobian(execution, skip.fork, skip.merge, 0)
    generator = torch.Generator().manual_seed(0)
    u, v = (torch.randn(n, generator=generator, dtype=torch.double) for n in j.shape)
    assert float(u @ j.times(v)) == pytest.approx(float(j.transposed_times(u) @ v), rel=1e-3, abs=1e-3)

    def shifted(step: float) -> Tensor:
        value = x + step * v.to(x).view_as(x)
        patches = {(node.name, skip.fork): lambda _: value for node in case.program.nodes[skip.fork].users}
        with torch.no_grad():
            return execution.fork(patches).value(skip.merge).double().flatten()

    slope = (shifted(1e-3) - shifted(-1e-3)) / 2e-3
    assert float((slope - j.times(v)).norm() / slope.norm()) < 0.02


@pytest.mark.parametrize("activation", [nn.Hardsigmoid(), nn.Tanh()])
def test_with_a_derivative_of_the_derivative_or_without(activation: nn.Module) -> None:
    """Hard sigmoid's derivative has none: products come from tangents then. Other samples of the batch stay."""
    torch.manual_seed(0)
    model = Net(lambda net, x: x + net.b(net.s(net.a(x))), a=linear(8, 5), s=activation, b=linear(5, 8)).double()
    x = torch.randn(3, 8, dtype=torch.double)
    program = skiplab.capture(model, (x,))
    (skip,) = skiplab.find(program)
    execution = Execution(program, (x,))
    execution.value(skip.fork)
    j = Jacobian(execution, skip.fork, skip.merge, 1)
    expected = jacobian(model, x[1])
    assert isinstance(expected, Tensor)
    columns = torch.stack([j.times(unit) for unit in torch.eye(8)], 1)
    torch.testing.assert_close(columns, expected)
    torch.testing.assert_close(j.matrix(), expected)
    assert all(p.grad is None for p in model.parameters())


def test_a_wide_matrix_and_a_tall_one() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, dtype=torch.double)
    for m in (2, 7):
        model = nn.Sequential(linear(3, m), nn.Tanh()).double()
        program = skiplab.capture(model, (x,))
        execution = Execution(program, (x,))
        execution.value(program.ops[0].name)
        j = Jacobian(execution, program.ops[0].name, program.ops[-1].name, 0)
        expected = jacobian(model, x[0])
        assert isinstance(expected, Tensor)
        assert j.shape == expected.shape == (m, 3)
        torch.testing.assert_close(j.matrix(), expected)
