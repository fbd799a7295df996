"""The way along a shortcut, against the Jacobian of the same function written by hand."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import skiplab
from networks import Net, conv, heavy, linear
from skiplab.verification.jvp_check import tangent
from skiplab.verification.random_inputs import Doubled, double_weights, draw
from skiplab.verification.shortcut_function import Graph, Route, route

# A network, and the merge's value by hand as a function of (net, x0, x): x on the shortcut, x0 everywhere else.
Hand = Callable[[Any, Tensor, Tensor], Tensor]
HAND: dict[str, tuple[Net, Hand, tuple[int, ...]]] = {
    "identity": (
        Net(lambda n, x: x + n.f(x), f=heavy()),
        lambda n, x0, x: x + n.f(x0),
        (2, 8),
    ),
    "rolled": (
        Net(lambda n, x: n.f(x) + x.roll(1, -1).flip(0), f=heavy()),
        lambda n, x0, x: n.f(x0) + x.roll(1, -1).flip(0),
        (2, 8),
    ),
    "subtracted": (
        Net(lambda n, x: n.f(x) - 3 * x, f=heavy()),
        lambda n, x0, x: n.f(x0) - 3 * x,
        (2, 8),
    ),
    "projected": (
        Net(lambda n, x: n.p(x) + n.f(x), f=heavy(), p=linear()),
        lambda n, x0, x: n.p(x) + n.f(x0),
        (2, 8),
    ),
    "two_branches": (
        Net(lambda n, x: x + n.f(x) + n.g(x), f=heavy(), g=heavy()),
        lambda n, x0, x: x + n.f(x0) + n.g(x0),
        (2, 8),
    ),
    "twice": (
        Net(lambda n, x: n.f(x) + x + x, f=heavy()),
        lambda n, x0, x: n.f(x0) + x + x0,
        (2, 8),
    ),
    "concatenated": (
        Net(lambda n, x: torch.cat((n.f(x), x[:, ::2]), -1), f=heavy()),
        lambda n, x0, x: torch.cat((n.f(x0), x[:, ::2]), -1),
        (2, 8),
    ),
    "stacked": (
        Net(lambda n, x: torch.stack((x, n.f(x), x)).sum(0), f=heavy()),
        lambda n, x0, x: x + n.f(x0) + x0,
        (2, 8),
    ),
    "padded": (
        Net(lambda n, x: F.pad(x[..., ::2, ::2], (0, 0, 0, 0, 2, 2)) + n.f(x), f=conv(4, 8, stride=2)),
        lambda n, x0, x: F.pad(x[..., ::2, ::2], (0, 0, 0, 0, 2, 2)) + n.f(x0),
        (1, 4, 4, 4),
    ),
    "pooled": (
        Net(lambda n, x: F.avg_pool2d(x, 2) + n.f(x), f=conv(stride=2)),
        lambda n, x0, x: F.avg_pool2d(x, 2) + n.f(x0),
        (1, 4, 4, 4),
    ),
    "highway": (
        Net(lambda n, x: n.f(x) * (t := n.g(x).sigmoid()) + x * (1 - t), f=heavy(), g=linear()),
        lambda n, x0, x: n.f(x0) * (t := n.g(x0).sigmoid()) + x * (1 - t),
        (2, 8),
    ),
    "lerp": (
        Net(lambda n, x: torch.lerp(x, n.f(x), n.g(x).sigmoid()), f=heavy(), g=linear()),
        lambda n, x0, x: x * (1 - n.g(x0).sigmoid()) + n.f(x0) * n.g(x0).sigmoid(),
        (2, 8),
    ),
    "lerp_written_out": (
        Net(lambda n, x: (y := n.f(x).tanh()) + n.g(x).sigmoid() * (x - y), f=heavy(), g=linear()),
        lambda n, x0, x: (y := n.f(x0).tanh()) + n.g(x0).sigmoid() * (x - y),
        (2, 8),
    ),
}


def way(net: Net, shape: tuple[int, ...]) -> tuple[Route, dict[Any, Any]]:
    """The only skip's way, and the values at a random point."""
    program = skiplab.capture(net, (torch.randn(shape),))
    (skip,) = skiplab.find(program)
    graph = Graph(program)
    found = route(graph, skip)
    point = draw(program.example, torch.Generator().manual_seed(0), 0)
    passed = Doubled(program, point, {node.name for node in found.needed}, double_weights(program))
    with torch.no_grad():
        passed.value(found.end.name)
    return found, {node: passed.recorded[node.name] for node in found.needed}


@pytest.mark.parametrize("name", HAND)
def test_jacobian_of_the_way_is_that_of_the_function_written_by_hand(name: str) -> None:
    net, hand, shape = HAND[name]
    net.eval()
    found, values = way(net, shape)
    x = values[found.fork]
    net.double()
    try:
        slow = torch.autograd.functional.jacobian(lambda y: hand(net, x, y), x)
        torch.testing.assert_close(found(values, [x]), hand(net, x, x).detach())
    finally:
        net.float()
    assert isinstance(slow, Tensor)
    basis = torch.eye(x.numel(), dtype=x.dtype).reshape(-1, *x.shape)
    columns = [tangent(lambda y: found(values, [y]), [x], [e]).flatten() for e in basis]
    torch.testing.assert_close(torch.stack(columns, 1), slow.reshape(-1, x.numel()))


def test_where_no_forward_derivative_exists_two_backward_ones_serve() -> None:
    class Tripled(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:  # type: ignore[override]
            return 3 * x

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
            return 3 * grad

    x, u = torch.randn(5), torch.randn(5)
    with torch.no_grad():
        assert torch.equal(tangent(lambda y: Tripled.apply(y), [x], [u]), 3 * u)  # type: ignore[arg-type, return-value]


def test_only_what_lies_on_the_way_is_computed_again_and_kept() -> None:
    found, values = way(Net(lambda n, x: n.f(x) + n.p(x * 2), f=heavy(), p=linear()), (2, 8))
    assert [node.name for node in found.steps] == ["mul", "linear_2"]
    assert {node.name for node in values} == {"x", "p_p_weight", "p_p_bias", "linear_1", "linear_2", "add"}
