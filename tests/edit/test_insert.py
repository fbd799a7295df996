import functools
import inspect
import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import skiplab
from cases import by_kind
from networks import Net, conv, heavy, linear
from oracles.edited import SHAPES, assert_same_network, branch, found, layer
from skiplab.edit import Place, insert, place, places, remove_shortcut
from skiplab.errors import UsageError
from skiplab.graph.interpreter import run
from skiplab.models import PadShortcut, SkipConnection, resnet


@pytest.mark.parametrize("placement", ["post", "pre"])
def test_a_plain_network_with_shortcuts_is_the_residual_one(placement: Any) -> None:
    """Option A has no weights, so that the checkpoints are the same."""
    torch.manual_seed(0)
    plain = resnet(20, width=4, skip=None, placement=placement)
    residual = resnet(20, width=4, skip="A", placement=placement)
    program, none = found(plain, (2, 3, 16, 16))
    edited = insert(program, places(program, placement=placement))
    _, wanted = found(residual, (2, 3, 16, 16))
    skips = skiplab.find(edited)
    assert len(none) == 0
    columns = ["combine", "shortcut", "weight_layers", "long", "activation_after"]
    assert skips.table()[columns].equals(wanted.table()[columns])
    assert edited.added == frozenset()
    x = torch.randn(3, 3, 16, 16)
    residual.load_state_dict(plain.state_dict())
    torch.testing.assert_close(edited.module()(x), residual.eval()(x))
    assert_same_network(edited.module().train(), residual.train(), x)
    torch.testing.assert_close(run(remove_shortcut(edited, skips), x), run(program, x))


def test_projections_are_those_of_the_residual_network() -> None:
    plain, residual = resnet(20, width=4, skip=None), resnet(20, width=4, skip="B")
    program, _ = found(plain, (2, 3, 16, 16))
    module = insert(program, places(program), shortcut="B").module()
    state, parts = (
        residual.state_dict(),
        (("shortcut_weight", "downsample.0.weight"), ("shortcut_norm", "downsample.1")),
    )
    theirs = {
        name: functools.reduce(lambda name, part: name.replace(*part), parts, name) for name in module.state_dict()
    }
    assert state.keys() == {*theirs.values()}
    module.load_state_dict({name: state[their] for name, their in theirs.items()})
    x = torch.randn(3, 3, 16, 16)
    torch.testing.assert_close(module(x), residual.eval()(x))
    torch.testing.assert_close(module.train()(x), residual.train()(x))


@pytest.mark.parametrize("shortcut", ["A", "B"])
@pytest.mark.parametrize("learn", [False, True])
def test_with_a_factor_of_zero_the_function_stays(shortcut: Any, learn: bool) -> None:
    plain = resnet(20, width=4, skip=None)
    program, _ = found(plain, (2, 3, 16, 16))
    edited = insert(program, places(program), shortcut, scale=0, learn=learn)
    x = torch.randn(3, 3, 16, 16)
    assert torch.equal(edited.module()(x), run(program, x))
    assert sum(name.endswith("shortcut_scale") for name in edited.added) == 9 * learn


def chain(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(*layers)


@pytest.mark.parametrize("form", SHAPES)
def test_around_every_branch_of_a_chain(form: str) -> None:
    torch.manual_seed(0)
    model = chain(layer(form), *(branch(form) for _ in range(3)), layer(form))
    program, _ = found(model, SHAPES[form])
    edited = insert(program, places(program))
    wanted = chain(layer(form), *(SkipConnection(branch(form)) for _ in range(3)), layer(form))
    state = {name.replace(".branch", ""): value for name, value in wanted.state_dict().items()}
    assert state.keys() == model.state_dict().keys()
    module = edited.module()
    module.load_state_dict(state)
    x = torch.randn(SHAPES[form])
    torch.testing.assert_close(module(x), wanted(x))
    assert [skip.path for skip in skiplab.find(edited)] == ["1", "2", "3"]


class Around(nn.Module):
    """`shortcut(stem(x)) + f(stem(x))`, and a head."""

    def __init__(self, stem: nn.Module, f: nn.Module, shortcut: Any, head: nn.Module) -> None:
        super().__init__()
        self.stem, self.f, self.head = stem, f, head
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        return self.head(self.f(y) + self.shortcut(self, y) if self.shortcut else self.f(y))


@pytest.mark.parametrize("size", [(7, 9), (8, 8), (1, 2)])
def test_option_a_takes_every_other_position_of_odd_sizes_too(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    pad = PadShortcut(4, 6, 2)
    wanted = Around(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 6, 3, 2, 1), lambda net, y: pad(y), nn.Conv2d(6, 2, 1))
    plain = Around(wanted.stem, wanted.f, None, wanted.head)
    program, _ = found(plain, (2, 3, *size))
    edited = insert(program, [("stem", "f")])
    assert_same_network(edited.module(), wanted, torch.randn(3, 3, *size))


@pytest.mark.parametrize("form", ["conv1d", "conv2d", "conv3d", "vector", "tokens"])
@pytest.mark.parametrize("outputs", [3, 6])
def test_projections_and_padding_of_every_form(form: str, outputs: int) -> None:
    """To fewer channels and to more, with half the positions where there are positions."""
    images = form.startswith("conv")
    shape = (*SHAPES[form][:2], *[7] * (len(SHAPES[form]) - 2)) if images else SHAPES[form]
    rank, options = len(shape), {"stride": 2} if images else {}
    plain = Around(layer(form), layer(form, 4, outputs, **options), None, layer(form, outputs, 2))
    program, _ = found(plain, shape)

    def project(net: Any, y: Tensor) -> Tensor:
        if not images:
            return y @ net.f.shortcut_weight.T
        taken = y[(..., *[slice(None, None, 2)] * (rank - 2))]
        return torch.einsum("nc...,dc->nd...", taken, net.f.shortcut_weight.flatten(1))

    wanted = Around(layer(form), layer(form, 4, outputs, **options), project, layer(form, outputs, 2))
    kernel = (outputs, 4, *[1] * (rank - 2)) if images else (outputs, 4)
    wanted.f.shortcut_weight = nn.Parameter(torch.randn(kernel))
    x = torch.randn(shape)
    assert_same_network(insert(program, [("stem", "f")], "B").module(), wanted, x)
    if outputs < 4:
        with pytest.raises(UsageError, match="cannot reduce the number of channels: use shortcut B"):
            insert(program, [("stem", "f")])
        return

    def pad(net: Any, y: Tensor) -> Tensor:
        taken = y[(..., *[slice(None, None, 2)] * (rank - 2))] if images else y
        return F.pad(taken, (*[0] * (2 * (rank - 2) if images else 0), 0, outputs - 4))

    wanted = Around(layer(form), layer(form, 4, outputs, **options), pad, layer(form, outputs, 2))
    assert_same_network(insert(program, [("stem", "f")]).module(), wanted, x)


def test_projections_are_drawn_for_their_fan_out() -> None:
    """Normal, of variance 2 / outputs; and the state of random numbers stays."""
    plain = Around(nn.Conv2d(3, 64, 1), nn.Conv2d(64, 128, 3, 2, 1), None, nn.Conv2d(128, 2, 1))
    program, _ = found(plain, (2, 3, 4, 4))
    state = torch.get_rng_state()
    one, again, other = (
        insert(program, [("stem", "f")], "B", seed=seed).module().state_dict()["f.shortcut_weight"]
        for seed in (1, 1, 2)
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert float(one.std()) == pytest.approx((2 / 128) ** 0.5, rel=0.05)


def test_names_of_modules_and_of_ops_mean_the_same() -> None:
    model = chain(linear(), heavy(), linear())
    program, _ = found(model, (3, 8))
    last = {op.module: op.name for op in program.ops}
    x = torch.randn(3, 8)
    wanted = model[2](model[0](x) + model[1](model[0](x)))
    for start, end in itertools.product(("0", last["0"]), ("1", "1.2", last["1.2"])):
        torch.testing.assert_close(run(insert(program, [(start, end)]), x), wanted)
    chosen = place(program, "0", "1")
    assert chosen == Place(last["0"], last["1.2"], "1")
    from_input = insert(program, [(program.inputs[0], "1")])
    torch.testing.assert_close(run(from_input, x), model[2](x + model[1](model[0](x))))


def test_a_shortcut_that_starts_where_another_ends_carries_the_sum_on() -> None:
    """In any order: x + F(x), then that plus G(that); and one from the start past both."""
    model = chain(linear(), heavy(), heavy(), linear())
    program, _ = found(model, (3, 8))
    x = torch.randn(3, 8)
    first = model[0](x)
    second = first + model[1](first)
    for chosen in itertools.permutations([("0", "1"), ("1", "2")]):
        wanted = model[3](second + model[2](second))
        torch.testing.assert_close(run(insert(program, chosen), x), wanted)
    dense = insert(program, [("0", "2"), ("0", "1")])
    torch.testing.assert_close(run(dense, x), model[3](first + model[2](second)))


def test_what_the_network_returns_is_the_sum_too() -> None:
    model = Net(lambda net, x: (y := net.f(x), net.g(y)), f=heavy(), g=heavy())
    program, _ = found(model, (3, 8))
    edited = insert(program, [(program.inputs[0], "f"), ("f", "g")])
    x = torch.randn(3, 8)
    y = x + model.get_submodule("f")(x)
    for value, wanted in zip(run(edited, x), (y, y + model.get_submodule("g")(y)), strict=True):
        torch.testing.assert_close(value, wanted)


def test_a_learned_factor() -> None:
    model = chain(linear(), heavy(), linear())
    program, _ = found(model, (3, 8))
    module = insert(program, [("0", "1")], learn=True).module()
    x = torch.randn(3, 8)
    torch.testing.assert_close(module(x), run(insert(program, [("0", "1")]), x))
    with torch.no_grad():
        module.get_parameter("1.shortcut_scale").fill_(0.25)
    torch.testing.assert_close(module(x), run(insert(program, [("0", "1")], scale=0.25), x))


def test_the_sum_stands_in_the_innermost_module_around_it() -> None:
    inner = chain(linear(), nn.ReLU(), linear())
    model = chain(linear(), chain(inner, chain(linear(), nn.ReLU(), linear())), linear())
    program, _ = found(model, (3, 8))
    skips = skiplab.find(insert(program, [("0", "1.0"), ("1.0", "1.1"), ("0", "1")][:2]))
    assert [skip.path for skip in skips] == ["1.0", "1.1"]
    skips = skiplab.find(insert(program, [("0", "1")]))
    assert [(skip.path, skip.weight_layers) for skip in skips] == [("1", 4)]
    assert by_kind(skips) == {"add/identity": 1}


LAYERS = chain(conv(3, 4), conv(4, 4), conv(4, 6, stride=3), conv(6, 6))


@pytest.mark.parametrize(
    ("chosen", "options", "says"),
    [
        ([], {}, "no place to insert a shortcut at"),
        ([("0", "nowhere")], {}, "no op and no module `nowhere` in Sequential; its modules are 0.0, 0.1"),
        ([("1", "0")], {}, "no path leads from `1` to `0` through a weight layer"),
        ([("0.0", "0.2")], {}, "no path leads from `0.0` to `0.2` through a weight layer"),
        ([("0", "1"), ("0.0", "1")], {}, "two shortcuts would end at one value"),
        ([("0", "1")], {"shortcut": "C"}, "shortcut='C': choose A or B"),
    ],
)
def test_places_that_make_no_sense(chosen: Any, options: Any, says: str) -> None:
    program, _ = found(LAYERS, (2, 3, 9, 9))
    with pytest.raises(UsageError, match=says):
        inspect.unwrap(insert)(program, chosen, **options)


def test_shapes_that_no_stride_turns_into_each_other() -> None:
    grown = chain(conv(3, 4), nn.Upsample(scale_factor=2), conv(4, 4), conv(4, 4))
    cut = chain(conv(3, 4), nn.Conv2d(4, 4, 3), conv(4, 4))
    flat = chain(conv(3, 4), nn.Conv2d(4, 4, 3), nn.Flatten(), linear(4 * 7 * 7, 8), linear())
    for model, end in ((grown, "2"), (cut, "1"), (flat, "3")):
        program, _ = found(model, (2, 3, 9, 9))
        for shortcut in ("A", "B"):
            with pytest.raises(UsageError, match=r"no shortcut fits from .* no stride changes one shape"):
                insert(program, [("0", end)], shortcut)


def test_a_projection_of_tokens_takes_every_other_one() -> None:
    class Halved(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = linear(), linear(8, 6), linear(6, 6)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.c(self.b(self.a(x))[:, ::2])

    program, _ = found(Halved(), (2, 5, 8))
    longer = insert(program, [("a", "c")], "B")
    module, x = longer.module(), torch.randn(3, 5, 8)
    state = module.state_dict()

    def layer(name: str, value: torch.Tensor) -> torch.Tensor:
        return F.linear(value, state[f"{name}.weight"], state[f"{name}.bias"])

    a = layer("a", x)
    expected = layer("c", layer("b", a)[:, ::2]) + F.linear(a[:, ::2], state["shortcut_weight"])
    with torch.no_grad():
        torch.testing.assert_close(module(x), expected)
