import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import skiplab
from networks import Net, around, heavy
from oracles.edited import SHAPES, assert_same_network, blocks, found, written
from skiplab.edit import average, layer_scale, rezero, scale, skip_init
from skiplab.errors import UsageError
from skiplab.graph.interpreter import run


def vector(form: str) -> tuple[int, ...]:
    """A channel's number stands where the channels do."""
    return (4, *[1] * (len(SHAPES[form]) - 2)) if form.startswith("conv") else (4,)


@pytest.mark.parametrize("form", SHAPES)
@pytest.mark.parametrize("edit", [rezero, skip_init])
def test_rezero_is_the_network_with_a_scalar_before_the_sum(form: str, edit: Callable[..., Any]) -> None:
    program, skips = found(blocks(form), SHAPES[form])
    edited = edit(program, skips)
    assert edited.added == {f"{i}.branch_scale" for i in range(3)}
    x = torch.randn(SHAPES[form])
    assert torch.equal(run(edited, x), x)  # it starts as the identity
    wanted = written(form, lambda net, x, f: x + net.branch_scale * f, branch_scale=())
    assert_same_network(edited.module(), wanted, x)


@pytest.mark.parametrize("form", SHAPES)
def test_layer_scale_is_the_network_with_a_vector_before_the_sum(form: str) -> None:
    program, skips = found(blocks(form), SHAPES[form])
    edited = layer_scale(program, skips, 0.1)
    start = edited.module().state_dict()["1.branch_scale"]
    assert torch.equal(start, torch.full(vector(form), 0.1))
    wanted = written(form, lambda net, x, f: x + net.branch_scale * f, branch_scale=vector(form))
    assert_same_network(edited.module(), wanted, torch.randn(SHAPES[form]))


def test_both_ways_with_scales_that_learn() -> None:
    program, skips = found(blocks("vector"), (3, 4))
    edited = scale(program, skips, shortcut=0.5, branch=2.0, learn="scalar")
    x = torch.randn(3, 4)
    assert torch.equal(edited.module()(x), run(scale(program, skips, shortcut=0.5, branch=2.0), x))
    wanted = written(
        "vector",
        lambda net, x, f: net.shortcut_scale * x + net.branch_scale * f,
        shortcut_scale=(),
        branch_scale=(),
    )
    assert_same_network(edited.module(), wanted, x)


def test_constants_are_no_parameters() -> None:
    model: Any = blocks("vector")
    program, skips = found(model, (3, 4))
    edited = scale(program, skips[1:2], shortcut=0.5, branch=3)
    x = torch.randn(3, 4)
    middle = model[0](x)
    assert torch.equal(run(edited, x), model[2](0.5 * middle + 3 * model[1].branch(middle)))
    assert edited.added == frozenset()
    assert run(edited, x).shape == run(program, x).shape


def test_a_factor_of_one_changes_nothing() -> None:
    program, skips = found(blocks("vector"), (3, 4))
    edited = scale(program, skips, shortcut=1, branch=1.0)
    assert edited.fingerprint == program.fingerprint
    assert str(edited.graph.graph) == str(program.graph.graph)


def test_every_edge_of_a_way_has_the_same_scale() -> None:
    """x + x + F(x) + G(x): the shortcut comes twice, and there are two branches."""
    model: Any = Net(lambda net, x: x + x + net.f(x) + net.g(x), f=heavy(), g=heavy())
    program, skips = found(model, (3, 8))
    edited = scale(program, skips.expect(1), shortcut=0.5, branch=2.0, learn="scalar")
    assert edited.added == {"shortcut_scale", "branch_scale"}
    x = torch.randn(3, 8)
    torch.testing.assert_close(run(edited, x), x + 2 * (model.f(x) + model.g(x)))


def test_a_value_that_is_the_branch_of_several_skips_is_scaled_once() -> None:
    """In a dense block y = [x, f(x)], z = [x, f(x), g(y)], f(x) is the branch of x's skip in both."""
    net: Any = Net(
        lambda net, x: torch.cat((x, f := net.f(x), net.g(torch.cat((x, f), -1))), -1),
        f=heavy(),
        g=nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 8)),
    )
    program, skips = found(net, (3, 8))
    assert len(skips) == 3
    x = torch.randn(3, 8)
    f = net.f(x)
    wanted = torch.cat((x, 2 * f, 2 * net.g(torch.cat((x, 2 * f), -1))), -1)
    torch.testing.assert_close(run(scale(program, skips, branch=2.0), x), wanted)
    module = scale(program, skips, branch=2.0, learn="scalar").module()
    module(x).sum().backward()
    assert [name for name, parameter in module.named_parameters() if parameter.grad is None] == []


def test_names_that_are_taken_are_numbered() -> None:
    program, skips = found(blocks("vector", 1), (3, 4))
    once = rezero(program, skips)
    twice = rezero(once, skiplab.find(once))
    assert twice.added == {"0.branch_scale", "0.branch_scale_2"}
    x = torch.randn(3, 4)
    module = twice.module()
    module.load_state_dict({**module.state_dict(), "0.branch_scale": torch.tensor(2.0)})
    assert torch.equal(module(x), x)
    module.load_state_dict({**module.state_dict(), "0.branch_scale_2": torch.tensor(3.0)})
    torch.testing.assert_close(module(x), run(scale(program, skips, branch=6.0), x))


def test_a_scale_stands_beside_one_that_the_model_has() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.branch_scale, self.branch = nn.Parameter(torch.tensor(0.5)), heavy()

        def forward(self, x: Tensor) -> Tensor:
            return x + self.branch_scale * self.branch(x)

    program, skips = found(Own(), (3, 8))
    edited = rezero(program, skips)
    assert edited.added == {"branch_scale_2"}
    assert float(edited.module().state_dict()["branch_scale"]) == 0.5


def test_average_divides_by_the_number_of_operands() -> None:
    model: Any = blocks("conv2d")
    program, skips = found(model, SHAPES["conv2d"])
    x = torch.randn(SHAPES["conv2d"])
    wanted = written("conv2d", lambda net, x, f: (x + f) / 2)
    assert_same_network(average(program, skips).module(), wanted, x)
    thirds: Any = Net(lambda net, x: x - 2 * net.f(x) + net.g(x), f=heavy(), g=heavy())
    program, skips = found(thirds, (3, 8))
    x = torch.randn(3, 8)
    torch.testing.assert_close(run(average(program, skips.expect(1)), x), thirds(x) / 3)
    twice: Any = around(lambda x, f: x + x + f)
    program, skips = found(twice, (3, 8))
    torch.testing.assert_close(run(average(program, skips.expect(1)), x), twice(x) / 3)


def test_a_merge_of_two_skips_is_averaged_once() -> None:
    """x + F(x) + G(F(x) + …) has one sum at the end in which two skips meet."""
    model: Any = Net(lambda net, x: (y := net.f(x)) + net.g(y) + x, f=heavy(), g=heavy())
    program, skips = found(model, (3, 8))
    assert len({skip.merge for skip in skips}) < len(skips)
    x = torch.randn(3, 8)
    torch.testing.assert_close(run(average(program, skips), x), model(x) / 3)


def test_average_of_a_concatenation_is_refused() -> None:
    model: Any = around(lambda x, f: torch.cat((x, f), -1))
    program, skips = found(model, (3, 8))
    with pytest.raises(UsageError, match="concatenates"):
        average(program, skips)


@pytest.mark.parametrize(
    ("options", "says"),
    [({}, "no factor to scale"), ({"branch": 1.0, "learn": "matrix"}, "learn='matrix': choose no, scalar or vector")],
)
def test_wrong_options(options: Any, says: str) -> None:
    program, skips = found(blocks("vector", 1), (3, 4))
    with pytest.raises(UsageError, match=says):
        inspect.unwrap(scale)(program, skips, **options)  # without the annotations' own check
